"""The session, as the hooks in a model call it."""

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

    def note_forward_end(self) -> None:
        """Record that the model's forward has returned or raised."""

    def is_active_at(self, site: Site) -> bool:
        """Return True if a probe or an edit of the session fits the site."""

    def check_prompt_keys(self, site: Site, call: AttentionInputs) -> None:
        """Raise ArgumentError for keys of other prompts; called once for each site."""

    def plan_edits(self, site: Site, plan: EditPlan) -> None:
        """Add the changes that the session's edits make at the site to the edit plan."""

    def recorded_inputs(self, site: Site) -> RecordedInputs | None:
        """Return the recorded queries and keys of a source without rows in the batch; None for
        none.
        """

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Pass the attention probabilities of a call to the session's probes."""
