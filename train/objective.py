"""What the denoiser is asked for: noise schedule x prediction x timestep density x weight.

Suffixes: B batch rows, C channels, H W latent size.
Two families of schedule share one form, x_t = alpha x_0 + sigma noise, SNR = (alpha / sigma)^2:
diffusion (alpha^2 + sigma^2 = 1, the table of diffusers' DDPMScheduler) and flow
(alpha = 1 - t, sigma = t).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from train.randomness import generator

NUM_TRAIN_TIMESTEPS = 1000


class ObjectiveConfig(BaseModel):
    """One choice per axis; the ones that cannot be combined are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] = "v_prediction"
    """What the model outputs: noise, velocity, clean latents, or noise minus latents (flow)."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise.

    Lin et al. (2023), Algorithm 1, arXiv 2305.08891.
    """
    density: Literal["uniform", "logit_normal"] = "uniform"
    """How timesteps are drawn; `logit_normal` as Esser et al. (2024), Eq. 19, arXiv 2403.03206."""
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    stratified: bool = True
    """Draw one timestep from each of `batch_size` equal strata of the density."""
    weight: Literal["none", "min_snr"] = "none"
    """`min_snr` is that of Hang et al. (2023), arXiv 2303.09556."""
    min_snr_gamma: float = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_learned(self) -> "ObjectiveConfig":
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "prediction = 'epsilon' with zero_terminal_snr = true: at the last timestep the "
                "input is the noise itself, so predicting it teaches nothing and sampling divides "
                "by zero. "
                "Use prediction = 'v_prediction' or 'sample', or set zero_terminal_snr = false."
            )
        if self.zero_terminal_snr and self.prediction == "flow":
            raise ValueError(
                "prediction = 'flow' with zero_terminal_snr = true: flow's own schedule already "
                "ends in pure noise and has no betas to rescale. Set zero_terminal_snr = false."
            )
        return self

    def scheduler_config(self) -> dict[str, Any]:
        """The keys of a diffusers scheduler that samples what this objective trains."""
        if self.prediction == "flow":
            return {"num_train_timesteps": NUM_TRAIN_TIMESTEPS}
        return {
            "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "timestep_spacing": "trailing" if self.zero_terminal_snr else "leading",
        }


@dataclass(frozen=True, slots=True)
class Level:
    """Where on the noise schedule each row stands.

    timestep_B : what the model is told, 0..999 (int64), or 0..1000 (float32) for flow
    alpha_B, sigma_B : factors of the clean latents and of the noise, float32
    """

    timestep_B: Tensor
    alpha_B: Tensor
    sigma_B: Tensor


class Objective:
    """The formulas of one configuration; keeps its schedule table."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config
        if config.prediction != "flow":
            settings = config.scheduler_config()
            table: Any = DDPMScheduler(**settings)
            self._alpha2_T: Tensor = table.alphas_cumprod.double()

    def level(self, quantile_B: Tensor) -> Level:
        """The noise level at quantiles (B,) in [0, 1) of the timestep density."""
        u_B = quantile_B.double()
        if self.config.density == "logit_normal":
            normal_B = torch.special.ndtri(u_B.clamp(1e-7, 1 - 1e-7))
            u_B = torch.sigmoid(self.config.logit_mean + self.config.logit_std * normal_B)
        if self.config.prediction == "flow":
            return Level((u_B * NUM_TRAIN_TIMESTEPS).float(), (1 - u_B).float(), u_B.float())
        timestep_B = (u_B * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
        alpha2_B = self._alpha2_T[timestep_B.cpu()].to(u_B.device)
        return Level(timestep_B, alpha2_B.sqrt().float(), (1 - alpha2_B).sqrt().float())

    def noisy(self, latents_BCHW: Tensor, noise_BCHW: Tensor, level: Level) -> Tensor:
        """x_t, (B, C, H, W)."""
        return _rows(level.alpha_B) * latents_BCHW + _rows(level.sigma_B) * noise_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, level: Level) -> Tensor:
        """What the model should output for x_t, (B, C, H, W)."""
        match self.config.prediction:
            case "epsilon":
                return noise_BCHW
            case "sample":
                return latents_BCHW
            case "v_prediction":  # Salimans & Ho (2022), Appendix D, arXiv 2202.00512
                return _rows(level.alpha_B) * noise_BCHW - _rows(level.sigma_B) * latents_BCHW
            case "flow":
                return noise_BCHW - latents_BCHW

    def weight(self, level: Level) -> Tensor:
        """Factor (B,) on each row's squared error.

        min-SNR weighs the error of x_0 by min(SNR, gamma), here turned into one of the model's
        own output. With a zero terminal SNR that would silence the last timestep; SNR + 1 in its
        place keeps it at weight 1.
        """
        if self.config.weight == "none":
            return torch.ones_like(level.alpha_B)
        alpha2_B, sigma2_B = level.alpha_B.double() ** 2, level.sigma_B.double() ** 2
        raised = 1.0 if self.config.zero_terminal_snr else 0.0
        # sigma^2 min(SNR, gamma), finite at both ends of the schedule
        weight_B = torch.minimum(alpha2_B + raised * sigma2_B, self.config.min_snr_gamma * sigma2_B)
        match self.config.prediction:
            case "epsilon":  # |x_0 error|^2 = sigma^2 / alpha^2 |noise error|^2
                return (weight_B / alpha2_B).float()
            case "sample":
                return (weight_B / sigma2_B).float()
            case "v_prediction":  # |x_0 error| = sigma |v error|, as alpha^2 + sigma^2 = 1
                return weight_B.float()
            case "flow":  # |x_0 error| = sigma |velocity error|
                return weight_B.float()

    def losses(self, output_BCHW: Tensor, target_BCHW: Tensor, level: Level) -> Tensor:
        """Weighted mean squared error of each row, (B,), in float32."""
        error_B = (output_BCHW.float() - target_BCHW.float()).pow(2).flatten(1).mean(1)
        return self.weight(level) * error_B


def quantiles(
    config: ObjectiveConfig, seed: int, step: int, slots: list[int], batch_size: int
) -> Tensor:
    """Where each slot (B,) of the batch of `step` stands in the timestep density, in [0, 1)."""
    within = [torch.rand((), generator=generator(seed, step, slot, "time")) for slot in slots]
    if not config.stratified:
        return torch.stack(within)
    strata = torch.randperm(batch_size, generator=generator(seed, step, "strata"))
    return (strata[slots] + torch.stack(within)) / batch_size


def _rows(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)
