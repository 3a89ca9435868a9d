"""A map as somebody's own function wants it.

N heads, Q query positions, K key positions.
"""

from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan, MapFunction
from t2i.attention.compute.probabilities import validate_map
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Site, Sites
from t2i.errors import ArgumentError

WITH_TEXT = ("cross", "joint")


@dataclass(frozen=True, kw_only=True)
class Function(Edit):
    """The target's maps are what `fn` makes of them: (N, Q, K) probabilities to the same shape.

    The one edit whose maps are computed, in float32, at its sites only; name few. A large map comes
    in parts, some queries at a time, so `fn` must not mix positions Q. At sites that look at the
    text, unless `sites` asks for others: Sites(kind="self").

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

    def fits(self, site: Site) -> bool:
        asked = isinstance(self.sites, Sites) and self.sites.kind is not None
        return super().fits(site) and (asked or site.kind in WITH_TEXT)

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        plan.add_function(call.denoiser_pass.cond_rows(self.target), self.of_its_heads)

    def of_its_heads(self, probs_NQK: Tensor) -> Tensor:
        """`fn` of the chosen heads; the others stay as they are."""
        if self.heads is None:
            return self.fn(probs_NQK)
        heads = list(self.heads)
        chosen_NQK = probs_NQK[heads]
        changed_NQK = probs_NQK.clone()
        changed_NQK[heads] = validate_map(self.fn(chosen_NQK), chosen_NQK)
        return changed_NQK
