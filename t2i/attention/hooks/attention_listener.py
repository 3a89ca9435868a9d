"""The session, as the hooks in a model call it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.recorded_rows import RecordedAttentionInputs
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.site import Site


class AttentionListener(Protocol):
    """Interface of a session to which the hooks in a model pass its attention calls."""

    @property
    def num_rows(self) -> int | None:
        """Number of batch rows of the running denoiser pass; None between passes."""

    def on_model_forward_end(self) -> None:
        """Notify the session that the denoiser's forward call has ended: it returned or raised."""

    def acts_at_site(self, site: Site) -> bool:
        """Return True if a probe of the session reads, or an edit changes, the attention of the
        site, so that its module needs a hook.
        """

    def treating_rows_as_branches(self, branches: Sequence[str]) -> AbstractContextManager[None]:
        """Context manager for the call of a control network (ControlNet): within the block, the
        batch rows of the running pass count as the rows of these guidance branches alone.
        """

    def acts_in_control_network(self, number: int) -> bool:
        """Return True if a probe or an edit of the session selects attention sites in the network
        of this control (ControlNet).
        """

    def check_images_of_prompt_share_keys(self, site: Site, call: AttentionInputs) -> None:
        """Raise ArgumentError if the attention keys of a call cannot come from the session's
        prompts; called once for each site.
        """

    def add_edits_to_plan(self, site: Site, plan: EditPlan) -> None:
        """Add the changes that the session's edits make at the site to the edit plan."""

    def get_recorded_qkv(self, site: Site) -> RecordedAttentionInputs | None:
        """Return the queries, keys and values that an earlier run recorded at this site for the
        current step; None if the session has no recorded source, or nothing was recorded at the
        site.
        """

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Pass the attention probabilities of a call to the session's probes."""
