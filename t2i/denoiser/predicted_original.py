"""The predicted original sample (x0) as a linear function of latents and prediction."""

import math
from typing import TYPE_CHECKING

import numpy as np

from t2i.denoiser.schedulers import Scheduler

if TYPE_CHECKING:
    from torch import Tensor


def compute_run_x0_coefficients(
    scheduler: Scheduler, num_steps: int, remaining: int
) -> tuple[tuple[float, float], ...]:
    """Return for each of the `num_steps` steps of a run the (a, b) such that x0 = a * latents + b *
    prediction; `remaining` timesteps of the scheduler follow the run.
    """
    factors = compute_x0_coefficients_per_step(scheduler)
    return factors[: len(factors) - remaining][-num_steps:]


def compute_x0_coefficients_per_step(scheduler: Scheduler) -> tuple[tuple[float, float], ...]:
    """Return (a, b) for each step of a scheduler such that the predicted clean sample is x0 = a *
    latents + b * prediction.

    The latents are those the scheduler steps; the noise level is that of the timestep; nothing is
    clipped. Empty for a scheduler whose prediction type is unknown.
    """
    try:
        return tuple(_factors_at(scheduler, float(timestep)) for timestep in scheduler.timesteps)
    except _UnknownPrediction:
        return ()


class _UnknownPrediction(Exception):
    """The prediction type does not determine x0."""


def _factors_at(scheduler: Scheduler, timestep: float) -> tuple[float, float]:
    config = scheduler.config
    predicted = config.get("prediction_type", "epsilon")
    if predicted == "flow_prediction" or type(scheduler).__name__.startswith("FlowMatch"):
        return 1.0, -timestep / float(config["num_train_timesteps"])

    alpha, sigma = compute_signal_and_noise_scales(scheduler, timestep)
    if predicted == "epsilon" and alpha > 0:
        a, b = 1 / alpha, -sigma / alpha
    elif predicted == "v_prediction":
        a, b = alpha, -sigma
    elif predicted == "sample":
        a, b = 0.0, 1.0
    else:
        raise _UnknownPrediction
    # Schedulers that start from more than unit noise step latents / alpha, not latents.
    starts_at_unit_noise = float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1
    return a if starts_at_unit_noise else a * alpha, b


def compute_signal_and_noise_scales(scheduler: Scheduler, timestep: float) -> tuple[float, float]:
    """Return alpha and sigma of a scheduler at a timestep, where noised = alpha * clean + sigma *
    noise.

    Timesteps between two training steps are interpolated as samplers do it.
    """
    alphas_cumprod: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise _UnknownPrediction
    alphas2 = alphas_cumprod.double().cpu().numpy()
    if timestep == int(timestep):
        alpha2 = float(alphas2[int(timestep)])
        return math.sqrt(alpha2), math.sqrt(1 - alpha2)
    log_ratios = np.log((1 - alphas2) / alphas2) / 2
    ratio = math.exp(np.interp(timestep, np.arange(len(alphas2)), log_ratios))
    return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
