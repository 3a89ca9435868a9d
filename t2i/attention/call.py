"""One call of attention in a run, as probes and edits see it."""

from dataclasses import dataclass

from t2i.attention.denoiser_pass import Pass
from t2i.attention.prompts.prompt_tokens import Said
from t2i.attention.site import Site


@dataclass(frozen=True, slots=True)
class At:
    """One call of attention in a run: where, when, and what was said."""

    site: Site
    passing: Pass
    said: Said

    @property
    def tokens(self) -> int:
        """T, of the text among the keys."""
        first, end = self.site.text
        return end - first
