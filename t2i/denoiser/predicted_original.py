"""What a prediction says about the clean picture, at each turn of a scheduler."""

import math

import numpy as np
from torch import Tensor

from t2i.denoiser.schedulers import Scheduler


def denoised_factors(scheduler: Scheduler) -> tuple[tuple[float, float], ...]:
    """For each turn a and b such that the clean latents are a * latents + b * prediction.

    The latents are those the scheduler steps; the noise level is the one that the timestep tells
    the model; nothing is clipped. Empty where the scheduler does not say what its model predicts.
    """
    try:
        return tuple(_factors(scheduler, float(timestep)) for timestep in scheduler.timesteps)
    except _Unknown:
        return ()


class _Unknown(Exception):
    """No clean picture follows from the prediction."""


def _factors(scheduler: Scheduler, timestep: float) -> tuple[float, float]:
    config = scheduler.config
    predicted = config.get("prediction_type", "epsilon")
    if predicted == "flow_prediction" or type(scheduler).__name__.startswith("FlowMatch"):
        return 1.0, -timestep / float(config["num_train_timesteps"])

    alpha, sigma = _signal_and_noise(scheduler, timestep)
    if predicted == "epsilon" and alpha > 0:
        a, b = 1 / alpha, -sigma / alpha
    elif predicted == "v_prediction":
        a, b = alpha, -sigma
    elif predicted == "sample":
        a, b = 0.0, 1.0
    else:
        raise _Unknown
    # Schedulers that start from more than unit noise step latents / alpha, not latents.
    starts_at_unit_noise = float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1
    return a if starts_at_unit_noise else a * alpha, b


def _signal_and_noise(scheduler: Scheduler, timestep: float) -> tuple[float, float]:
    """Of noised = alpha * clean + sigma * noise; between two training steps as samplers do it."""
    alphas_cumprod: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise _Unknown
    alphas2 = alphas_cumprod.double().cpu().numpy()
    if timestep == int(timestep):
        alpha2 = float(alphas2[int(timestep)])
        return math.sqrt(alpha2), math.sqrt(1 - alpha2)
    log_ratios = np.log((1 - alphas2) / alphas2) / 2
    ratio = math.exp(np.interp(timestep, np.arange(len(alphas2)), log_ratios))
    return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
