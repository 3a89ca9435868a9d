"""Error functions of the denoising loss, and weighted means of each batch row.

Suffixes: B batch rows, C channels, H W latent size.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

SMALLEST_DIVISOR = torch.finfo(torch.float32).tiny


def compute_l2_loss_of_error(error_BCHW: Tensor) -> Tensor:
    """Return e^2 of a difference e = prediction - target, elementwise, (B, C, H, W)."""
    return error_BCHW.pow(2)


def compute_pseudo_huber_loss_of_error(error_BCHW: Tensor, c_B: Tensor) -> Tensor:
    """Return 2 c (sqrt(e^2 + c^2) - c) of a difference e, elementwise: e^2 for |e| << c, 2 c |e|
    for |e| >> c.

    The pseudo-Huber loss of Khrapov et al. (2024), arXiv 2403.16728, in the scale that kohya's
    scripts call "huber". Computed as 2 c e^2 / (sqrt(e^2 + c^2) + c), which is the same number
    without the difference of two nearly equal ones.
    """
    return _rows(c_B) * compute_smooth_l1_loss_of_error(error_BCHW, c_B)


def compute_smooth_l1_loss_of_error(error_BCHW: Tensor, c_B: Tensor) -> Tensor:
    """Return 2 (sqrt(e^2 + c^2) - c) of a difference e, elementwise: e^2 / c for |e| << c, 2 |e|
    for |e| >> c.

    kohya's "smooth_l1": the pseudo-Huber loss divided by c, so that large errors pull alike at
    every timestep.
    """
    squared_BCHW = error_BCHW.pow(2)
    c_B111 = _rows(c_B)
    return 2 * squared_BCHW / ((squared_BCHW + c_B111**2).sqrt() + c_B111)


# Thresholds of the pseudo-Huber losses, at time 0 (no noise) to 1 (pure noise) of the schedule.


def compute_constant_huber_threshold(
    c: float, time_B: Tensor, alpha_B: Tensor, sigma_B: Tensor
) -> Tensor:
    """Return the Huber threshold c, the same at every timestep, (B,)."""
    return torch.full_like(alpha_B, c)


def compute_exponential_huber_threshold(
    c: float, time_B: Tensor, alpha_B: Tensor, sigma_B: Tensor
) -> Tensor:
    """Return the Huber threshold c^time, (B,): from 1 without noise to c in pure noise
    (2403.16728, section 4).
    """
    return torch.exp(math.log(c) * time_B).to(alpha_B.dtype)


def compute_snr_huber_threshold(
    c: float, time_B: Tensor, alpha_B: Tensor, sigma_B: Tensor
) -> Tensor:
    """Return the Huber threshold (1 - c) / (1 + sigma / alpha)^2 + c, (B,), which falls from 1 to
    c.

    kohya's and SimpleTuner's "snr" schedule, written with alpha on top so that it is finite in pure
    noise. For flow, where alpha + sigma = 1, it is (1 - c) (1 - t)^2 + c.
    """
    return (1 - c) * (alpha_B / (alpha_B + sigma_B)) ** 2 + c


def compute_row_means(error_BCHW: Tensor, weight_B1HW: Tensor | None = None) -> Tensor:
    """Return the mean error of each row, (B,), weighted if weights are given.

    A row with a total weight of 0 has mean 0 and no gradient.
    """
    if weight_B1HW is None:
        return error_BCHW.flatten(1).mean(1)
    weight_B1HW = weight_B1HW.to(error_BCHW.dtype)
    total_B = (error_BCHW * weight_B1HW).flatten(1).sum(1)
    counted_B = weight_B1HW.flatten(1).sum(1) * error_BCHW.shape[1]
    return total_B / counted_B.clamp(min=SMALLEST_DIVISOR)


def pool_loss_weights(share_B1HW: Tensor, height: int, width: int) -> Tensor:
    """Pool loss weights of pixels to the size of latents, (B, 1, height, width)."""
    return interpolate(share_B1HW, size=(height, width), mode="area")


def _rows(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)


HUBER_THRESHOLDS = {
    "constant": compute_constant_huber_threshold,
    "exponential": compute_exponential_huber_threshold,
    "snr": compute_snr_huber_threshold,
}
