"""The session, as the hooks in a model call it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.recorded_rows import RecordedInputs
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.site import Site


class AttentionListener(Protocol):
    """Interface of a session to which the hooks in a model pass its attention calls."""

    @property
    def num_rows(self) -> int | None:
        """Number of batch rows of the running denoiser pass; None between passes."""

    def note_model_forward_end(self) -> None:
        """Note that the denoiser's forward call has ended: it returned or raised."""

    def acts_at_site(self, site: Site) -> bool:
        """Return True if a probe of the session reads, or an edit changes, the attention of the
        site, so that its module needs a hook.
        """

    def treating_rows_as_branches(self, branches: Sequence[str]) -> AbstractContextManager[None]:
        """Take the rows of the running pass for those of these branches alone within the block, in
        which a control's network is called.
        """

    def acts_in_control(self, number: int) -> bool:
        """Return True if a probe or an edit names the sites of a control's network."""

    def check_images_of_prompt_share_keys(self, site: Site, call: AttentionInputs) -> None:
        """Raise ArgumentError if the attention keys of a call cannot come from the session's
        prompts; called once for each site.
        """

    def add_edits_to_plan(self, site: Site, plan: EditPlan) -> None:
        """Add the changes that the session's edits make at the site to the edit plan."""

    def get_recorded_qkv(self, site: Site) -> RecordedInputs | None:
        """Return the queries and keys that an earlier run recorded at this site for the current
        step; None if the session uses no recorded source, or it has none at this site.
        """

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Pass the attention probabilities of a call to the session's probes."""
