"""Training objective of a denoiser: noise schedule, prediction, timestep density, loss, weight.

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

from t2i.randomness import derive_generator
from train.objective.losses import (
    HUBER_THRESHOLDS,
    compute_l2_loss_of_error,
    compute_pseudo_huber_loss_of_error,
    compute_row_means,
    compute_smooth_l1_loss_of_error,
)

NUM_TRAIN_TIMESTEPS = 1000


class ObjectiveConfig(BaseModel):
    """Configuration of a denoiser's training objective: prediction type, noise schedule,
    timestep density, loss, weighting.
    """

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
    """Density of timesteps; `logit_normal` as Esser et al. (2024), Eq. 19, arXiv 2403.03206."""
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    stratified: bool = True
    """Draw one timestep from each of `batch_size` equal strata of the density."""
    weight: Literal["none", "min_snr"] = "none"
    """Weight of each noise level; `min_snr` is that of Hang et al. (2023), arXiv 2303.09556."""
    min_snr_gamma: float = Field(5.0, gt=0)
    loss: Literal["l2", "huber", "smooth_l1"] = "l2"
    """Elementwise error; `huber` and `smooth_l1` are robust against outliers."""
    huber_c: float = Field(0.1, gt=0)
    """Threshold between squared and absolute error; the value at which a schedule ends."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """Schedule of the threshold from 1 to `huber_c` as noise grows: none, c^(t/T), or by SNR."""
    noise_offset: float = Field(0.0, ge=0)
    """Strength of offset noise, constant per channel; 0.05 to 0.1 for dark and bright pictures."""
    input_perturbation: float = Field(0.0, ge=0)
    """Strength of extra noise on the input alone; 0.1 in Ning et al. (2023), arXiv 2301.11706."""

    @model_validator(mode="after")
    def _refuse_impossible_combinations(self) -> "ObjectiveConfig":
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
        if self.loss != "l2" and self.huber_schedule != "constant" and self.huber_c > 1:
            raise ValueError(
                f"huber_c = {self.huber_c} with huber_schedule = {self.huber_schedule!r}, which "
                "falls from 1 to it: choose at most 1, or huber_schedule = 'constant'."
            )
        return self

    def build_scheduler_config(self) -> dict[str, Any]:
        """Return the config of a diffusers scheduler that samples what this objective trains."""
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
class NoiseLevel:
    """Noise level of each row of a batch: its timestep, and the factors alpha and sigma of clean
    latents and noise.

    timestep_B : input of the model, 0..999 (int64), or 0..1000 (float32) for flow
    alpha_B, sigma_B : factors of the clean latents and of the noise, float32
    """

    timestep_B: Tensor
    alpha_B: Tensor
    sigma_B: Tensor


class Objective:
    """Definition of how a denoiser is trained: the noise schedule and the density of timesteps,
    what the model has to predict, and the loss with its weight. It computes noisy latents,
    prediction targets and losses from tensors that are given; the caller runs the model.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config
        if config.prediction != "flow":
            settings = config.build_scheduler_config()
            table: Any = DDPMScheduler(**settings)
            self._alpha2_T: Tensor = table.alphas_cumprod.double()

    def noise_level_at_quantile(self, quantile_B: Tensor) -> NoiseLevel:
        """Map quantiles (B,) in [0, 1) of the timestep density to noise levels: timesteps with
        their alpha and sigma.
        """
        u_B = quantile_B.double()
        if self.config.density == "logit_normal":
            normal_B = torch.special.ndtri(u_B.clamp(1e-7, 1 - 1e-7))
            u_B = torch.sigmoid(self.config.logit_mean + self.config.logit_std * normal_B)
        if self.config.prediction == "flow":
            return NoiseLevel((u_B * NUM_TRAIN_TIMESTEPS).float(), (1 - u_B).float(), u_B.float())
        timestep_B = (u_B * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
        return self.noise_level_at_timestep(timestep_B)

    def noise_level_at_timestep(self, timestep_B: Tensor) -> NoiseLevel:
        """Return the noise levels at timesteps 0..999, (B,) int64, of a diffusion schedule."""
        alpha2_B = self._alpha2_T[timestep_B.cpu()].to(timestep_B.device)
        return NoiseLevel(timestep_B, alpha2_B.sqrt().float(), (1 - alpha2_B).sqrt().float())

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, level: NoiseLevel) -> Tensor:
        """Add noise to clean latents x_0: return x_t = alpha x_0 + sigma noise, (B, C, H, W)."""
        return _rows(level.alpha_B) * latents_BCHW + _rows(level.sigma_B) * noise_BCHW

    def compute_prediction_target(
        self, latents_BCHW: Tensor, noise_BCHW: Tensor, level: NoiseLevel
    ) -> Tensor:
        """Return what the model should predict for noisy latents x_t by its prediction type: noise,
        velocity or clean latents, (B, C, H, W).
        """
        match self.config.prediction:
            case "epsilon":
                return noise_BCHW
            case "sample":
                return latents_BCHW
            case "v_prediction":  # Salimans & Ho (2022), Appendix D, arXiv 2202.00512
                return _rows(level.alpha_B) * noise_BCHW - _rows(level.sigma_B) * latents_BCHW
            case "flow":
                return noise_BCHW - latents_BCHW

    def convert_output_to_latents_and_noise(
        self, output_BCHW: Tensor, noisy_BCHW: Tensor, level: NoiseLevel
    ) -> tuple[Tensor, Tensor]:
        """Return the clean latents and the noise, both (B, C, H, W) float32, that the model's
        output says noisy latents x_t are made of: x_t = alpha latents + sigma noise.
        """
        output_BCHW, noisy_BCHW = output_BCHW.float(), noisy_BCHW.float()
        alpha_B111, sigma_B111 = _rows(level.alpha_B), _rows(level.sigma_B)
        match self.config.prediction:
            case "epsilon":
                return (noisy_BCHW - sigma_B111 * output_BCHW) / alpha_B111, output_BCHW
            case "sample":
                return output_BCHW, (noisy_BCHW - alpha_B111 * output_BCHW) / sigma_B111
            case "v_prediction":
                return (
                    alpha_B111 * noisy_BCHW - sigma_B111 * output_BCHW,
                    sigma_B111 * noisy_BCHW + alpha_B111 * output_BCHW,
                )
            case "flow":  # x_t = latents + t (noise - latents)
                return (
                    noisy_BCHW - sigma_B111 * output_BCHW,
                    noisy_BCHW + alpha_B111 * output_BCHW,
                )

    def compute_loss_weight(self, level: NoiseLevel) -> Tensor:
        """Return the min-SNR weight (B,) by which each row's loss is multiplied; 1 without
        weighting.

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

    def compute_losses(
        self,
        output_BCHW: Tensor,
        target_BCHW: Tensor,
        level: NoiseLevel,
        weight_B1HW: Tensor | None = None,
    ) -> Tensor:
        """Return each row's denoising loss, (B,) float32: the weighted mean error of the model's
        output against its prediction target.

        weight_B1HW : how much each place counts in its row's mean, from 0 to 1, or all alike
        """
        error_BCHW = output_BCHW.float() - target_BCHW.float()
        return self.compute_loss_weight(level) * compute_row_means(
            self.compute_elementwise_loss(error_BCHW, level), weight_B1HW
        )

    def compute_velocity_errors(
        self, output_BCHW: Tensor, target_BCHW: Tensor, level: NoiseLevel
    ) -> Tensor:
        """Return the mean squared error (B,) of the model's output, expressed as the velocity v
        = a noise - s x_0 whatever the prediction type.

        a and s are alpha and sigma over sqrt(alpha^2 + sigma^2). Equal for every prediction type of
        the same x_0 from the same x_t. To predict v = 0 for latents of variance 1 costs 1 at every
        level, so that all of them count in a mean. An error of the noise is a times that of v: in
        pure noise, where a model decides on the layout, it vanishes.
        """
        error_B = compute_row_means(
            compute_l2_loss_of_error(output_BCHW.float() - target_BCHW.float())
        )
        match self.config.prediction:
            case "epsilon":  # |v error| = |noise error| / a, as x_t is given
                return error_B / level.alpha_B**2
            case "sample":  # |v error| = |x_0 error| / s
                return error_B / level.sigma_B**2
            case "v_prediction":
                return error_B
            case "flow":  # |noise error| = alpha |flow error|
                return error_B * (level.alpha_B**2 + level.sigma_B**2)

    def compute_elementwise_loss(self, error_BCHW: Tensor, level: NoiseLevel) -> Tensor:
        """Return the L2, Huber or smooth L1 loss of each element of a difference, (B, C, H, W)."""
        config = self.config
        if config.loss == "l2":
            return compute_l2_loss_of_error(error_BCHW)
        threshold = HUBER_THRESHOLDS[config.huber_schedule]
        c_B = threshold(
            config.huber_c, level.timestep_B / NUM_TRAIN_TIMESTEPS, level.alpha_B, level.sigma_B
        )
        return {
            "huber": compute_pseudo_huber_loss_of_error,
            "smooth_l1": compute_smooth_l1_loss_of_error,
        }[config.loss](error_BCHW, c_B)


def add_offset_noise(noise_BCHW: Tensor, offset_BC11: Tensor, strength: float) -> Tensor:
    """Add an offset per channel to noise, so that mean brightness can be learned.

    noise + strength * offset, with one standard normal number per row and channel (N. Guttenberg,
    "Diffusion with offset noise", 2023; 0.1 there). Its variance is 1 + strength^2, as published.
    It is the noise: input and target both have it.
    """
    return noise_BCHW + strength * offset_BC11


def perturb_input_noise(noise_BCHW: Tensor, extra_BCHW: Tensor, gamma: float) -> Tensor:
    """Return the noise for the denoiser's input alone, noise + gamma * extra; the target keeps
    `noise`.

    Ning et al. (2023), Algorithm 1, arXiv 2301.11706 (gamma = 0.1 there): in training the denoiser
    sees such errors as its own predictions leave behind in sampling.
    """
    return noise_BCHW + gamma * extra_BCHW


def sample_stratified_quantiles(
    config: ObjectiveConfig, seed: int, step: int, slots: list[int], batch_size: int
) -> Tensor:
    """Sample a quantile in [0, 1) of the timestep density for each row of a batch, (B,),
    stratified over the global batch.
    """
    within = [
        torch.rand((), generator=derive_generator(seed, step, slot, "time")) for slot in slots
    ]
    if not config.stratified:
        return torch.stack(within)
    strata = torch.randperm(batch_size, generator=derive_generator(seed, step, "strata"))
    return (strata[slots] + torch.stack(within)) / batch_size


def _rows(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)
