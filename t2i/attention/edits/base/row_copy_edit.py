"""Base class of the edits that copy self-attention tensors from the source's rows to the
target's.
"""

from dataclasses import dataclass
from typing import ClassVar

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan, TensorNames
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Sites, as_sites, list_steps_in_window


@dataclass(frozen=True, kw_only=True)
class RowCopyEdit(Edit):
    """Base class of attention edits that copy queries, keys or values of the source prompt's
    self-attention to the target prompt's, in each branch of guidance.

    Of a recorded source, a branch of the target that the source was recorded without takes the
    source's row of the branch "cond": a picture inverted without guidance has no row of the
    negative prompt, and the target's negative row takes that of the picture's prompt.
    """

    kinds = ("self",)
    tensors: ClassVar[TensorNames]
    """What is copied, by the first letters of query, key and value."""

    source: int = 0
    target: int = 1
    sites: Sites | str | None = Sites(place="up")

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the copies, source rows to target rows in all branches, to the edit plan."""
        rows = call.denoiser_pass.rows_of_prompt_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_of_prompt_in_all_branches(self.source)
        plan.add_row_copies(self.tensors, rows, sources, self.heads)

    def reads_superset_of(self, other: "RowCopyEdit", num_steps: int) -> bool:
        """Return True if this edit reads all that another one reads of the source, in a run of
        this many steps.
        """
        steps, others = (list_steps_in_window(one.steps, num_steps) for one in (self, other))
        return (
            set(other.tensors) <= set(self.tensors)
            and set(others) <= set(steps)
            and as_sites(self.sites).contains_all_of(as_sites(other.sites))
        )
