"""Plug-and-play: the target keeps the source's layout through its self-attention maps."""

from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Sites, StepWindow


@dataclass(frozen=True, kw_only=True)
class InjectQueriesKeys(Edit):
    """Edit that gives the target prompt's self-attention the queries and keys of the source
    prompt's.

    The attention part of plug-and-play (Tumanyan et al. 2022, Section 4, arXiv 2211.12572): in the
    upsampling blocks, in the first half of the steps, in each branch of guidance. The published
    code omits the first layer of Stable Diffusion 1 there, which is
    sites="up_blocks.(1.attentions.[12]|[23])".
    """

    kinds = ("self",)

    source: int = 0
    target: int = 1
    steps: StepWindow = (0.0, 0.5)
    sites: Sites | str | None = Sites(place="up")

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the copies of queries and keys, source rows to target rows in all branches, to the
        edit plan.
        """
        rows = call.denoiser_pass.rows_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_in_all_branches(self.source)
        plan.copy_rows("qk", rows, sources, self.heads)
