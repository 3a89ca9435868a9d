"""The session, as the hooks in a model call it."""

from typing import Protocol

from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.recorded_rows import RecordedRow
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.site import Site


class AttentionListener(Protocol):
    """A session to which an installation hands the attention calls of a model."""

    def num_rows(self) -> int | None:
        """Return the batch rows of the running pass; None between passes."""

    def leave_pass(self) -> None:
        """Note that the model returned or raised."""

    def wants(self, site: Site) -> bool:
        """Return True if a probe or an edit is made for the site."""

    def check_call(self, site: Site, call: AttentionInputs) -> None:
        """Raise ArgumentError for keys of other prompts; called once for each site."""

    def plan_edits(self, site: Site, plan: EditPlan) -> None:
        """Add the changes of its edits to the edit plan."""

    def recorded_row(self, site: Site) -> RecordedRow | None:
        """Return the recorded queries and keys of a source without rows in the batch."""

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Let its probes read the call."""
