"""Guidance without the component that raises contrast: adaptive projected guidance.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import (
    check_finite_number,
    check_guidance_scales,
    rescale_to_conditional_std,
)
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError, suggest_choice

ProjectionSpace = Literal["denoised", "prediction"]


@dataclass(frozen=True, slots=True)
class AdaptiveProjected:
    """Adaptive projected guidance, APG (Sadat et al. 2024, https://arxiv.org/abs/2410.02416).

    The difference of the branches gets momentum, a bounded norm, and less of its component
    parallel to the conditional prediction: D_cond + (scale - 1) (orthogonal + eta * parallel).

    As in the paper, D is the predicted original sample, whatever the model predicts; the result is
    converted back to a prediction. With `space="prediction"` D is the prediction itself, as in
    diffusers' guider; for models that predict noise almost nothing is parallel there.

    The running average is kept per image in `RunState.guidance_memory`. It is updated once per
    denoiser pass, so twice per requested step with second-order samplers.
    """

    possible_branches: ClassVar[tuple[Branch, ...]] = ("uncond", "cond")

    scale: float
    momentum: float = -0.5
    """The paper's beta; below 0 the average pushes away from where it has been. 0: none."""
    norm_threshold: float = 15.0
    """The paper's r: largest norm of an image's difference; 0 for no bound. It is a norm over all
    values of the latents, so larger images need a larger one."""
    eta: float = 0.0
    """How much of the parallel part stays: 1 is all of it, as in classifier-free guidance."""
    rescale: float = 0.0
    space: ProjectionSpace = "denoised"

    def __post_init__(self) -> None:
        check_guidance_scales(self.scale, self.rescale)
        for name in ("momentum", "norm_threshold", "eta"):
            check_finite_number(name, getattr(self, name))
        if not -1 < self.momentum < 1:
            raise ArgumentError(
                f"Got momentum={self.momentum}, expected a number between -1 and 1: beyond, the "
                "average grows without bound."
            )
        if self.norm_threshold < 0:
            raise ArgumentError(
                f"Got norm_threshold={self.norm_threshold}, expected a length, or 0 for no bound."
            )
        if self.space not in get_args(ProjectionSpace):
            raise ArgumentError(
                f"Got space={self.space!r}. "
                f"{suggest_choice(str(self.space), get_args(ProjectionSpace))}"
            )

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: "uncond" and
        "cond".
        """
        return self.possible_branches

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions, guiding by the part of their difference that is
        orthogonal to the denoised image, (B, C, H, W).
        """
        cond_BCHW = predictions["cond"]
        a, b = self.get_projected_quantity_coefficients(run)
        D_cond_BCHW = (
            cond_BCHW if self.space == "prediction" else a * run.latents_BCHW + b * cond_BCHW
        )
        diff_BCHW = b * (cond_BCHW - predictions["uncond"])

        diff_BCHW = self.update_and_add_momentum(diff_BCHW, run)
        diff_BCHW = clip_norm(diff_BCHW, self.norm_threshold)
        parallel_BCHW, orthogonal_BCHW = split_parallel_and_orthogonal(diff_BCHW, D_cond_BCHW)
        update_BCHW = orthogonal_BCHW + self.eta * parallel_BCHW

        # D_cond + (scale - 1) update, turned back: the latents' part cancels out.
        guided_BCHW = cond_BCHW + (self.scale - 1) / b * update_BCHW
        return rescale_to_conditional_std(guided_BCHW, cond_BCHW, self.rescale)

    def get_projected_quantity_coefficients(self, run: RunState) -> tuple[float, float]:
        """Return the coefficients a and b of this step in D = a * latents + b * prediction, where D
        is what the guidance projects: the predicted original sample, or the prediction itself.
        """
        if self.space == "prediction":
            return 0.0, 1.0
        if not run.x0_coefficients:
            raise ArgumentError(
                "Adaptive projected guidance needs RunState.x0_coefficients, to compute the "
                "predicted original sample: set it from "
                "t2i.denoiser.predicted_original.compute_x0_coefficients_per_step(scheduler), or "
                "choose space='prediction'."
            )
        return run.x0_coefficients[run.step]

    def update_and_add_momentum(self, diff_BCHW: Tensor, run: RunState) -> Tensor:
        """Return the difference of the predictions plus `momentum` times its running average, and
        store the sum as the new average.
        """
        if self.momentum == 0:
            return diff_BCHW
        before_BCHW = run.guidance_memory.get("apg_average")
        if before_BCHW is not None:
            diff_BCHW = diff_BCHW + self.momentum * before_BCHW
        run.guidance_memory["apg_average"] = diff_BCHW
        return diff_BCHW


def clip_norm(diff_BCHW: Tensor, r: float) -> Tensor:
    """Return the guidance difference of each image scaled down to the norm r where its norm is
    larger; r = 0 is no bound.
    """
    if r == 0:
        return diff_BCHW
    length_B111: Tensor = torch.linalg.vector_norm(diff_BCHW, dim=(1, 2, 3), keepdim=True)
    return diff_BCHW * (r / length_B111).clamp(max=1)


def split_parallel_and_orthogonal(diff_BCHW: Tensor, D_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Split each image's guidance difference into its parts parallel and orthogonal to a reference
    D; return both, computed in double precision.
    """
    # Apple's devices have no double.
    dtype = torch.float32 if diff_BCHW.device.type == "mps" else torch.float64
    wide_BCHW, D_BCHW = diff_BCHW.to(dtype), D_BCHW.to(dtype)
    length_B111 = torch.linalg.vector_norm(D_BCHW, dim=(1, 2, 3), keepdim=True)
    unit_BCHW = D_BCHW / length_B111.clamp(min=1e-12)
    parallel_BCHW = (wide_BCHW * unit_BCHW).sum(dim=(1, 2, 3), keepdim=True) * unit_BCHW
    return parallel_BCHW.to(diff_BCHW), (wide_BCHW - parallel_BCHW).to(diff_BCHW)
