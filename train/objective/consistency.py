"""Latent consistency distillation: a model of few steps, learned from one of many.

Luo et al. (2023), Latent Consistency Models, arXiv 2310.04378, and LCM-LoRA, arXiv 2311.05556.
The student maps noisy latents of every level to the end of the sampling trajectory that the base
model would follow from there; neighbouring levels of one trajectory must give the same latents.

Suffixes: B batch rows, C channels, H W latent size.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from t2i.errors import ArgumentError
from t2i.randomness import derive_generator
from train.objective.losses import compute_row_means
from train.objective.objective import NUM_TRAIN_TIMESTEPS, NoiseLevel, Objective

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Deviation of the latents, and factor of the timestep, in the boundary condition, as in diffusers'
LCMScheduler."""


class ConsistencyConfig(BaseModel):
    """Configuration of consistency distillation; its keys are part of a target's configuration,
    which inherits them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    consistency_steps: int = Field(0, ge=0)
    """Steps of the base model's DDIM solver over all timesteps, 50 in the paper; the model learns
    to jump over each. 0 trains on the denoising loss."""
    consistency_guidance: tuple[float, float] = (3.0, 3.0)
    """Lowest and highest guidance scale of the base model that is distilled; each row draws one."""

    @field_validator("consistency_steps")
    @classmethod
    def _divide_the_timesteps(cls, steps: int) -> int:
        if steps and NUM_TRAIN_TIMESTEPS % steps:
            raise ValueError(
                f"the {NUM_TRAIN_TIMESTEPS} timesteps are no multiple of {steps}: choose 20, 25, "
                "40, 50 or 100."
            )
        return steps

    @field_validator("consistency_guidance")
    @classmethod
    def _order_the_scales(cls, scales: tuple[float, float]) -> tuple[float, float]:
        low, high = scales
        if not 1 <= low <= high < float("inf"):
            raise ValueError(
                f"got {list(scales)}, expected the lowest and the highest guidance scale, as "
                "[3.0, 3.0]; 1 is without guidance."
            )
        return scales

    def sample_guidance_scales(self, seed: int, step: int, slots: Sequence[int]) -> Tensor:
        """Return the guidance scale of the base model that each row of a step distils, (B,)."""
        low, high = self.consistency_guidance
        shares_B = torch.stack(
            [torch.rand((), generator=derive_generator(seed, step, s, "guidance")) for s in slots]
        )
        return low + (high - low) * shares_B


class ConsistencyDistillation:
    """Computation of a consistency model's output and of one solver step of its base model, from
    tensors that are given; the caller runs the models.
    """

    def __init__(self, objective: Objective, steps: int) -> None:
        """steps : of the base model's DDIM solver over all timesteps

        Raises ArgumentError for an objective of flow matching.
        """
        if objective.config.prediction == "flow":
            raise ArgumentError(
                "target.consistency_steps distils diffusion models, and the base model is trained "
                "by flow matching (objective.prediction = 'flow'): set consistency_steps = 0."
            )
        self._objective, self._steps = objective, steps
        self._spacing = NUM_TRAIN_TIMESTEPS // steps

    def noise_level_at_quantile(self, quantile_B: Tensor) -> NoiseLevel:
        """Return the level at which a solver step begins, each of them equally likely, for
        quantiles (B,) in [0, 1).
        """
        step_B = (quantile_B.double() * self._steps).long().clamp(max=self._steps - 1)
        return self._objective.noise_level_at_timestep((step_B + 1) * self._spacing - 1)

    def noise_level_after_step(self, level: NoiseLevel) -> NoiseLevel:
        """Return the level at which the solver step that begins at `level` ends."""
        timestep_B = (level.timestep_B - self._spacing).clamp(min=0)
        return self._objective.noise_level_at_timestep(timestep_B)

    def predict_end_of_trajectory(
        self, output_BCHW: Tensor, noisy_BCHW: Tensor, level: NoiseLevel
    ) -> Tensor:
        """Return f = c_skip x_t + c_out x_0, the clean latents (B, C, H, W) that the student
        predicts by its output at noisy latents x_t (2310.04378, Eq. 9).

        At timestep 0 it is x_t itself, the boundary condition.
        """
        latents_BCHW, _ = self._objective.convert_output_to_latents_and_noise(
            output_BCHW, noisy_BCHW, level
        )
        scaled_B = level.timestep_B.float() * TIMESTEP_SCALING
        skip_B = SIGMA_DATA**2 / (scaled_B.square() + SIGMA_DATA**2)
        out_B = scaled_B / (scaled_B.square() + SIGMA_DATA**2).sqrt()
        return _rows(skip_B) * noisy_BCHW.float() + _rows(out_B) * latents_BCHW

    def solve_step(
        self,
        cond_BCHW: Tensor,
        uncond_BCHW: Tensor,
        guidance_scale_B: Tensor,
        noisy_BCHW: Tensor,
        level: NoiseLevel,
    ) -> Tensor:
        """Return the latents (B, C, H, W) after one guided DDIM step of the base model from noisy
        latents at `level` (2310.04378, Eq. 14).

        cond_BCHW, uncond_BCHW : outputs of the base model with the caption and without
        guidance_scale_B : of classifier-free guidance, 1 without; the paper's w is one less
        """
        cond, uncond = (
            self._objective.convert_output_to_latents_and_noise(output_BCHW, noisy_BCHW, level)
            for output_BCHW in (cond_BCHW, uncond_BCHW)
        )
        scale_B111 = _rows(guidance_scale_B)
        latents_BCHW, noise_BCHW = (
            one + scale_B111 * (other - one) for one, other in zip(uncond, cond, strict=True)
        )
        return self._objective.add_noise(
            latents_BCHW, noise_BCHW, self.noise_level_after_step(level)
        )

    def compute_losses(
        self,
        student_BCHW: Tensor,
        teacher_BCHW: Tensor,
        level: NoiseLevel,
        weight_B1HW: Tensor | None = None,
    ) -> Tensor:
        """Return each row's mean error (B,) between the ends that are predicted before and after a
        solver step, by the objective's elementwise loss without a weight by noise level.

        weight_B1HW : how much each place counts in its row's mean, from 0 to 1, or all alike
        """
        error_BCHW = student_BCHW - teacher_BCHW
        return compute_row_means(
            self._objective.compute_elementwise_loss(error_BCHW, level), weight_B1HW
        )


def _rows(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)
