"""StyleAligned: the target attends to the source's keys and values beside its own, and so takes its
style.
"""

import math
from dataclasses import dataclass

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.edits.base.edit import MAX_ABSOLUTE_VALUE
from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
from t2i.attention.site import Sites, is_number
from t2i.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class StyleAligned(SourceRowsEdit):
    """Edit that lets the target prompt's self-attention attend to the source prompt's keys and
    values beside its own, with queries and keys normalised to the source's: the target is another
    picture in the source's style.

    Shared attention (Hertz et al. 2023, StyleAligned, Section 3.2, arXiv 2312.02133), in each
    branch of guidance: Q' = AdaIN(Q, Q_s), K' = AdaIN(K, K_s), and Q' attends to [K_s; K'] with the
    values [V_s; V]. See SourceRowsEdit for a recorded source. The published code also shares the
    statistics of normalisation layers between the pictures, which is no attention and is left out.

    source_weight : factor of the attention to the source's keys before the softmax normalises it;
        1 as in the paper, 2 in the published code for a photo, below 1 for less of the source
    normalise : False leaves the target's queries and keys as they are
    """

    tensors = "qkv"

    sites: Sites | str | None = None
    source_weight: float = 1.0
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_weight("source_weight", self.source_weight)
        if not isinstance(self.normalise, bool):
            raise ArgumentError(f"Got normalise={self.normalise!r:.80}, expected True or False.")

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add to the edit plan that the target's rows share the keys and values of the source's
        rows, in all branches.
        """
        rows = call.denoiser_pass.rows_of_prompt_in_all_branches(self.target)
        sources = call.denoiser_pass.rows_of_prompt_in_all_branches(self.source)
        plan.add_shared_keys(
            rows,
            sources,
            score_offset=math.log(self.source_weight),
            normalise=self.normalise,
            heads=self.heads,
        )


def check_source_weight(name: str, weight: object) -> None:
    """Raise ArgumentError unless the weight of a source's keys, given as the argument `name`, is a
    positive number.
    """
    if not is_number(weight) or not 0 < weight <= MAX_ABSOLUTE_VALUE:  # type: ignore[operator]  # a number
        raise ArgumentError(
            f"Got {name}={weight!r:.80}, expected a positive number: 1 as published, 2 for more of "
            "the source's style, 0.5 for less."
        )
