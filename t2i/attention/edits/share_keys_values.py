"""MasaCtrl: the target attends to the source's keys and values, and may change its layout."""

from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Sites, StepWindow


@dataclass(frozen=True, kw_only=True)
class ShareKeysValues(Edit):
    """Edit that gives the target prompt's self-attention the keys and values of the source
    prompt's.

    Mutual self-attention (Cao et al. 2023, MasaCtrl, Section 3.2, arXiv 2304.08465), in each branch
    of guidance. The published code begins at step 4 of 50 and at layer 10 of Stable Diffusion 1,
    which is sites="up_blocks.[23]"; other models number their layers otherwise, so the default here
    is all upsampling blocks.
    """

    kinds = ("self",)

    source: int = 0
    target: int = 1
    steps: StepWindow = (0.08, 1.0)
    sites: Sites | str | None = Sites(place="up")

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the copies of keys and values, source rows to target rows in all branches, to the
        edit plan.
        """
        rows = call.denoiser_pass.rows_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_in_all_branches(self.source)
        plan.copy_rows("kv", rows, sources, self.heads)
