"""Self-attention injection of prompt-to-prompt: the target keeps the source's layout."""

from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Site


@dataclass(frozen=True, kw_only=True)
class SelfReplace(Edit):
    """Edit that replaces the target prompt's self-attention maps by the source prompt's; its values
    stay its own.

    Prompt-to-prompt's self-attention injection (Hertz et al. 2022, arXiv 2208.01626; the published
    code applies it at sites of at most 16 * 16 positions).
    """

    kinds = ("self",)

    source: int = 0
    target: int = 1
    max_positions: int | None = 16 * 16

    def acts_at_site(self, site: Site) -> bool:
        """Return True for a self-attention site of at most `max_positions` positions."""
        few = self.max_positions is None or site.num_positions <= self.max_positions
        return few and super().acts_at_site(site)

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the copies of queries and keys, source rows to target rows, to the edit plan."""
        rows, sources = (
            call.denoiser_pass.cond_rows_of_prompt(self.target),
            call.denoiser_pass.cond_rows_of_prompt(self.source),
        )
        plan.add_row_copies("qk", rows, sources, self.heads)
