"""Guidance that combines several weighted prompts.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import (
    check_finite_number,
    check_guidance_scales,
    rescale_to_conditional_std,
)
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Composed:
    """Composed guidance, a conjunction of prompts (Liu et al. 2022, arXiv 2206.01714, "AND").

    eps = uncond + scale * sum_i w_i (cond_i - uncond). The paper has no common scale: its w_i are
    ours times `scale`, so that a prompt of one part is guided as by ClassifierFree. A negative
    weight guides away from a part ("NOT" in the paper).

    Part 0 of the prompt is the text of the branch "cond", part i that of "cond<i>".
    """

    weights: tuple[float, ...]
    scale: float
    rescale: float = 0.0
    """How far to go back to the contrast of part 0's prediction, 0 to 1."""

    def __post_init__(self) -> None:
        check_guidance_scales(self.scale, self.rescale)
        if not isinstance(self.weights, tuple) or not self.weights:
            raise ArgumentError(
                f"Got weights={self.weights!r}, expected a tuple with one number for each part of "
                "the prompt, such as (1.0, 0.5)."
            )
        for weight in self.weights:
            check_finite_number("weights", weight)

    @property
    def cond_branches(self) -> tuple[Branch, ...]:
        """Guidance branches of the prompts that AND joins, one each: "cond", "cond1", ..."""
        return ("cond", *(f"cond{i}" for i in range(1, len(self.weights))))

    @property
    def possible_branches(self) -> tuple[Branch, ...]:
        """Guidance branches that a run may compute: "uncond" and one for each prompt that AND
        joins.
        """
        return ("uncond", *self.cond_branches)

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: always "uncond" and
        one for each prompt that AND joins.
        """
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions into uncond + scale * sum_i w_i (cond_i - uncond),
        rescaled, (B, C, H, W).
        """
        uncond_BCHW = predictions["uncond"]
        first_BCHW, *others_BCHW = (
            w_i * (predictions[part] - uncond_BCHW)
            for w_i, part in zip(self.weights, self.cond_branches, strict=True)
        )
        guided_BCHW = uncond_BCHW + self.scale * sum(others_BCHW, start=first_BCHW)
        return rescale_to_conditional_std(guided_BCHW, predictions["cond"], self.rescale)
