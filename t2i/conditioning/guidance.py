"""Guidance formulas that combine the predictions of a step's branches; one class per formula.

B batch rows (here: images), C channels, H W latent size, V values of an image (C * H * W).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.run_state import Guidance, RunState
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Conditional:
    """No guidance: the conditional prediction, with one row per image."""

    possible_branches: ClassVar[tuple[Branch, ...]] = ("cond",)

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: "cond" alone."""
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Return the prediction of the branch "cond" unchanged, (B, C, H, W): no guidance."""
        return predictions["cond"]


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598).

    As in Imagen's equation 2, scale 1 is the conditional prediction.
    """

    possible_branches: ClassVar[tuple[Branch, ...]] = ("uncond", "cond")

    scale: float
    rescale: float = 0.0
    """How far to go back to the contrast of the conditional prediction, 0 to 1."""

    def __post_init__(self) -> None:
        check_guidance_scales(self.scale, self.rescale)

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: "uncond" and
        "cond".
        """
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions into uncond + scale * (cond - uncond), rescaled, (B, C,
        H, W).
        """
        uncond_BCHW = predictions["uncond"]
        cond_BCHW = predictions["cond"]
        guided_BCHW = uncond_BCHW + self.scale * (cond_BCHW - uncond_BCHW)
        return rescale_to_conditional_std(guided_BCHW, cond_BCHW, self.rescale)


@dataclass(frozen=True, slots=True)
class ZeroStar:
    """CFG-Zero* (Fan et al. 2025, https://arxiv.org/abs/2503.18886): optimized scale, zero-init.

    The unconditional prediction is first multiplied by the factor that brings it closest to the
    conditional one, s_star = <cond, uncond> / |uncond|^2 per image. Zero-init steps predict zero.
    """

    possible_branches: ClassVar[tuple[Branch, ...]] = ("uncond", "cond")

    scale: float
    zero_init_steps: int = 0
    """Turns that predict zero; the paper suggests the first 4 % of a run. Only for flow models:
    there zero leaves the latents alone, whereas noise of zero would blow them up."""
    rescale: float = 0.0

    def __post_init__(self) -> None:
        check_guidance_scales(self.scale, self.rescale)
        if type(self.zero_init_steps) is not int or self.zero_init_steps < 0:
            raise ArgumentError(
                f"Got zero_init_steps={self.zero_init_steps!r}, expected a whole number from 0 on."
            )

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        # A pass computes at least one branch, although it is not used here.
        """Return the guidance branches that the denoiser computes at this step: "uncond" and
        "cond", or "cond" alone in the zero-init steps.
        """
        return ("cond",) if run.step < self.zero_init_steps else self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions into s_star uncond + scale * (cond - s_star uncond), or
        into zero in the zero-init steps, (B, C, H, W).
        """
        cond_BCHW = predictions["cond"]
        if run.step < self.zero_init_steps:
            return torch.zeros_like(cond_BCHW)
        scaled_BCHW = (
            compute_optimal_uncond_scale(cond_BCHW, predictions["uncond"]) * predictions["uncond"]
        )
        guided_BCHW = scaled_BCHW + self.scale * (cond_BCHW - scaled_BCHW)
        return rescale_to_conditional_std(guided_BCHW, cond_BCHW, self.rescale)


def compute_optimal_uncond_scale(cond_BCHW: Tensor, uncond_BCHW: Tensor) -> Tensor:
    """Return for each image the factor s, (B, 1, 1, 1), that minimises |cond - s uncond|: CFG-Zero*
    scales the unconditional prediction by it.
    """
    dtype = torch.promote_types(cond_BCHW.dtype, torch.float32)
    cond_BV, uncond_BV = (x.flatten(1).to(dtype) for x in (cond_BCHW, uncond_BCHW))
    dot_B1 = (cond_BV * uncond_BV).sum(dim=1, keepdim=True)
    square_B1 = (uncond_BV**2).sum(dim=1, keepdim=True) + 1e-8  # as published: no 0 / 0
    return (dot_B1 / square_B1).to(cond_BCHW.dtype)[:, :, None, None]


def rescale_to_conditional_std(guided_BCHW: Tensor, cond_BCHW: Tensor, amount: float) -> Tensor:
    """Rescale the guided prediction so that its standard deviation moves towards that of the
    conditional prediction (diffusers' `guidance_rescale`).

    amount : 0 for no change, 1 for the conditional prediction's standard deviation

    Lin et al. (2023), section 3.4, equations 14 to 16, https://arxiv.org/abs/2305.08891.
    """
    if amount == 0:
        return guided_BCHW
    cond_std_B111 = cond_BCHW.std(dim=(1, 2, 3), keepdim=True)
    guided_std_B111 = guided_BCHW.std(dim=(1, 2, 3), keepdim=True)
    rescaled_BCHW = guided_BCHW * (cond_std_B111 / guided_std_B111)
    return amount * rescaled_BCHW + (1 - amount) * guided_BCHW


def choose_guidance(scale: float, rescale: float = 0.0) -> Guidance:
    """Return classifier-free guidance, or Conditional for a scale up to 1, as in diffusers."""
    guidance = ClassifierFree(scale, rescale)
    return guidance if scale > 1 else Conditional()


def check_guidance_scales(scale: float, rescale: float) -> None:
    """Raise ArgumentError unless a guidance's scale and rescale factor are finite, and the rescale
    factor at least 0.
    """
    check_finite_number("guidance_scale", scale)
    check_finite_number("guidance_rescale", rescale)
    if rescale < 0:
        raise ArgumentError(f"Got guidance_rescale={rescale}, expected a number from 0 (off) to 1.")


MAX_GUIDANCE_NUMBER = 1e10
"""Upper bound of numbers: tensors have one, unlike Python integers."""


def check_finite_number(name: str, value: float) -> None:
    """Raise ArgumentError unless `value` is a finite number."""
    if not isinstance(value, Real) or not abs(value) < MAX_GUIDANCE_NUMBER:
        raise ArgumentError(f"Got {name}={value}, expected a finite number such as 7.5 or 0.")
