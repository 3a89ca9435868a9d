"""How the predictions of a step's branches become one: each guidance is a class with one formula.

B batch rows (here: pictures), C channels, H W latent size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.run import Guidance, Run
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Conditional:
    """No guidance: what the prompt says, one row per picture."""

    needs: ClassVar[tuple[Branch, ...]] = ("cond",)

    def branches(self, run: Run) -> tuple[Branch, ...]:
        return self.needs

    def combine(self, predictions: Mapping[Branch, Tensor], run: Run) -> Tensor:
        return predictions["cond"]


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598).

    As in Imagen's equation 2, scale 1 is the conditional prediction.
    """

    needs: ClassVar[tuple[Branch, ...]] = ("uncond", "cond")

    scale: float
    rescale: float = 0.0
    """How far to go back to the contrast of the conditional prediction, 0 to 1."""

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.scale)
        check_number("guidance_rescale", self.rescale)
        if self.rescale < 0:
            raise ArgumentError(
                f"Got guidance_rescale={self.rescale}, expected a number from 0 (off) to 1."
            )

    def branches(self, run: Run) -> tuple[Branch, ...]:
        return self.needs

    def combine(self, predictions: Mapping[Branch, Tensor], run: Run) -> Tensor:
        uncond_BCHW = predictions["uncond"]
        cond_BCHW = predictions["cond"]
        guided_BCHW = uncond_BCHW + self.scale * (cond_BCHW - uncond_BCHW)
        if self.rescale > 0:
            guided_BCHW = rescale_contrast(guided_BCHW, cond_BCHW, self.rescale)
        return guided_BCHW


def rescale_contrast(guided_BCHW: Tensor, cond_BCHW: Tensor, amount: float) -> Tensor:
    """Lin et al. (2023), section 3.4, equations 14 to 16, https://arxiv.org/abs/2305.08891."""
    cond_std_B111 = cond_BCHW.std(dim=(1, 2, 3), keepdim=True)
    guided_std_B111 = guided_BCHW.std(dim=(1, 2, 3), keepdim=True)
    rescaled_BCHW = guided_BCHW * (cond_std_B111 / guided_std_B111)
    return amount * rescaled_BCHW + (1 - amount) * guided_BCHW


def choose_guidance(scale: float, rescale: float = 0.0) -> Guidance:
    """Up to scale 1 the prompt alone is computed, as in diffusers, where 0 does not mean uncond."""
    guidance = ClassifierFree(scale, rescale)
    return guidance if scale > 1 else Conditional()


def check_number(name: str, value: float) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"Got {name}={value}, expected a finite number such as 7.5 or 0.")
