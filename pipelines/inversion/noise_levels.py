"""Noise levels of a run, and the linear step between two of them that every inversion uses.

At a level the latents are x = a x0 + s n, of the clean latents x0 and noise n; D is the x0 that the
denoiser predicts.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from t2i.denoiser.predicted_original import (
    compute_signal_and_noise_scales,
    compute_x0_coefficients_per_step,
)
from t2i.denoiser.schedulers import Scheduler
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """Noise schedule of a sampling run of N steps: its timesteps, and signal a and noise s of its N
    + 1 levels.

    timesteps : N, decreasing
    signal, noise : N + 1; the last level is that of the finished latents
    denoised : (f, g) per timestep, D = f x + g prediction
    """

    timesteps: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    denoised: tuple[tuple[float, float], ...]

    @property
    def num_steps(self) -> int:
        """Number of steps of the run, one less than its noise levels."""
        return len(self.timesteps)


@dataclass(frozen=True, slots=True)
class SamplerStepCoefficients:
    """Coefficients of one sampler step: x' = clean D + latents x + previous x_before, with the
    denoised picture D.

    x_before are the latents before the step before; only a sampler of two steps reads them.

    timestep : told to the denoiser
    denoised : (f, g), D = f x + g prediction
    """

    timestep: float
    denoised: tuple[float, float]
    clean: float
    latents: float
    previous: float = 0.0


def build_noise_levels(scheduler: Scheduler, num_inference_steps: int) -> NoiseLevels:
    """Return the noise levels of a run of this many steps with the scheduler's timesteps.

    The samplers differ in how they step between levels; an inversion steps by
    `build_step_coefficients`, so that only the timesteps are the scheduler's. Raises ArgumentError
    for a scheduler whose noise levels are unknown, and for a model that cannot denoise the first of
    them.
    """
    own: Any = copy.deepcopy(scheduler)
    set_timesteps(own, num_inference_steps, torch.device("cpu"))
    return read_noise_levels(own)


def read_noise_levels(own: Any) -> NoiseLevels:
    """Return the noise levels of a scheduler whose timesteps are set, as `build_noise_levels` does;
    the scheduler's timesteps are changed.
    """
    name, flow = type(own).__name__, is_flow_matching(own)
    if not flow and getattr(own, "alphas_cumprod", None) is None:
        raise ArgumentError(
            f"A picture cannot be inverted with {name}: its noise levels are not those of the "
            'training. Choose another sampler: pipe.scheduler = build_scheduler("ddim", '
            "pipe.scheduler.config)."
        )
    # A second-order sampler has each timestep twice.
    timesteps = tuple(sorted({float(timestep) for timestep in own.timesteps}, reverse=True))
    trained = float(own.config["num_train_timesteps"])
    levels = [
        (1 - t / trained, t / trained) if flow else compute_signal_and_noise_scales(own, t)
        for t in timesteps
    ]
    denoised = compute_denoised_factors(own, timesteps, levels)
    final = (1.0, 0.0)
    if not flow and (kept := getattr(own, "final_alpha_cumprod", None)) is not None:
        final = (math.sqrt(float(kept)), math.sqrt(1 - float(kept)))
    signal, noise = zip(*levels, final, strict=True)
    return NoiseLevels(timesteps, signal, noise, denoised)


def is_flow_matching(scheduler: Scheduler) -> bool:
    """Return True for a scheduler of flow matching, x = (1 - t) x0 + t n."""
    return type(scheduler).__name__.startswith("FlowMatch") or (
        scheduler.config.get("prediction_type") == "flow_prediction"
    )


def compute_denoised_factors(
    scheduler: Any, timesteps: tuple[float, ...], levels: list[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Return for each timestep the factors (f, g) with which the denoised picture D is computed
    from unscaled latents x and the model's prediction: D = f x + g prediction.
    """
    scheduler.timesteps = torch.tensor(timesteps, dtype=torch.float64)
    factors = compute_x0_coefficients_per_step(scheduler)
    if not factors:
        raise ArgumentError(
            f"The model predicts {scheduler.config.get('prediction_type')!r}, from which the "
            "picture cannot be computed at the noise level of its first step: choose timesteps "
            "below the last, or a model that predicts v_prediction or sample."
        )
    if is_flow_matching(scheduler) or float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1:
        return factors
    # Such a scheduler steps x / a; the paths are of x.
    return tuple((f / a, g) for (f, g), (a, _) in zip(factors, levels, strict=True))


def build_step_coefficients(
    levels: NoiseLevels, begin: int, end: int, *, eta: float = 0.0, asked_at: int | None = None
) -> SamplerStepCoefficients:
    """Return the coefficients of the DDIM step from noise level `begin` to level `end`, without the
    noise that it adds.

    x' = A D + B x with var = (s'^2 / s^2) (1 - a^2 / a'^2), c = sqrt(s'^2 - eta^2 var), B = c / s
    and A = a' - c a / s: DDIM (Song et al. 2020, equations 12 and 16,
    https://arxiv.org/abs/2010.02502), written so that it divides by no signal. It holds for flow
    models too, where eta is 0. The step may also lead to more noise.

    asked_at : timestep that the denoiser is told; by default that of `begin`
    """
    a, s = levels.signal[begin], levels.noise[begin]
    a_to, s_to = levels.signal[end], levels.noise[end]
    c = s_to
    if eta and s:
        variance = (s_to / s) ** 2 * (1 - (a / a_to) ** 2)
        c = math.sqrt(max(0.0, s_to**2 - eta**2 * variance))
    asked = begin if asked_at is None else asked_at
    kept = c / s
    return SamplerStepCoefficients(
        levels.timesteps[asked], levels.denoised[asked], a_to - kept * a, kept
    )


def build_run_step_coefficients(
    levels: NoiseLevels, *, eta: float = 0.0, skip: int = 0
) -> tuple[SamplerStepCoefficients, ...]:
    """Return the coefficients of all steps of a run, from noise level `skip` to the last; see
    `build_step_coefficients`.
    """
    return tuple(
        build_step_coefficients(levels, level, level + 1, eta=eta)
        for level in range(skip, levels.num_steps)
    )
