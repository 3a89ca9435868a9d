"""Base class of the edits that copy self-attention tensors from the source's rows to the
target's.
"""

from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit


@dataclass(frozen=True, kw_only=True)
class RowCopyEdit(SourceRowsEdit):
    """Base class of attention edits that copy queries, keys or values of the source prompt's
    self-attention to the target prompt's, in each branch of guidance.
    """

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the copies, source rows to target rows in all branches, to the edit plan."""
        rows = call.denoiser_pass.rows_of_prompt_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_of_prompt_in_all_branches(self.source)
        plan.add_row_copies(self.tensors, rows, sources, self.heads)
