"""Keep the layout of a picture under another prompt: who looks where is the source's."""

from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Sites, StepWindow


@dataclass(frozen=True, kw_only=True)
class InjectQueriesKeys(Edit):
    """The target's self-attention asks with the source's queries, and answers with its keys.

    The attention part of plug-and-play (Tumanyan et al. 2022, Section 4, arXiv 2211.12572): on the
    way up, in the first half of the steps, in each branch of guidance. The published code leaves
    out the first layer of Stable Diffusion 1 there: sites="up_blocks.(1.attentions.[12]|[23])".
    """

    kinds = ("self",)

    source: int = 0
    target: int = 1
    steps: StepWindow = (0.0, 0.5)
    sites: Sites | str | None = Sites(place="up")

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        rows = call.denoiser_pass.rows_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_in_all_branches(self.source)
        plan.copy_rows("qk", rows, sources, self.heads)
