"""Edit of attention maps by a function of the user.

N heads, Q query positions, K key positions.
"""

from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan, MapFunction
from t2i.attention.compute.probabilities import check_and_cast_user_map
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Site, Sites
from t2i.errors import ArgumentError

KINDS_WITH_TEXT = ("cross", "joint")


@dataclass(frozen=True, kw_only=True)
class Function(Edit):
    """Edit that replaces the target prompt's attention maps by the result of a user's function of
    them: `fn` maps (heads, queries, keys) probabilities to the same shape.

    The one edit whose maps are computed, in float32, at its sites only; select few. A large map is
    passed in chunks of query positions, so `fn` must not mix positions Q. Applies at sites with
    text among the keys, unless `sites` selects others: Sites(kind="self").

    >>> sharper = Function(lambda probs_NQK: (3 * probs_NQK.log()).softmax(-1), sites="mid_block")
    """

    kinds = ("self", "cross", "joint")

    fn: MapFunction = field(kw_only=False)
    target: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.fn):
            raise ArgumentError(
                f"Got fn={self.fn!r}, expected a function of a map: (heads, positions, keys) "
                "probabilities to the same shape."
            )

    def acts_at_site(self, site: Site) -> bool:
        """Return True for an attention site whose maps the user's function may replace."""
        selects_kind = isinstance(self.sites, Sites) and self.sites.kind is not None
        return super().acts_at_site(site) and (selects_kind or site.kind in KINDS_WITH_TEXT)

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan the user's function that replaces the attention maps of the target
        prompt's rows.
        """
        plan.add_map_function(
            call.denoiser_pass.cond_rows_of_prompt(self.target), self._apply_to_heads
        )

    def _apply_to_heads(self, probs_NQK: Tensor) -> Tensor:
        """Return the map with `fn` applied to the selected heads."""
        if self.heads is None:
            return self.fn(probs_NQK)
        heads = list(self.heads)
        chosen_NQK = probs_NQK[heads]
        changed_NQK = probs_NQK.clone()
        changed_NQK[heads] = check_and_cast_user_map(self.fn(chosen_NQK), chosen_NQK)
        return changed_NQK
