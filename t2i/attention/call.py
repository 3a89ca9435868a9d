"""One call of attention in a run, as probes and edits see it."""

from dataclasses import dataclass

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import Site


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of attention in a run: its site, its denoiser pass and the tokens of its prompts."""

    site: Site
    denoiser_pass: DenoiserPass
    prompt_tokens: PromptTokens

    @property
    def text_length(self) -> int:
        """Number of text tokens T among the keys of the attention call."""
        first, end = self.site.text
        return end - first
