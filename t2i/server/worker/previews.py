"""Previews of a running image: the predicted clean latents, projected linearly to colours.

The projection is fitted to the autoencoder itself, once a model is loaded, so that it serves every
one. B images, C channels, H W latent size, Y X image size, N positions.
"""

import base64
import io
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i.denoiser.families import sd
from t2i.denoiser.predicted_original import compute_signal_and_noise_scales
from t2i.denoiser.schedulers import Scheduler

PATCHES_PER_SIDE = 16
"""Flat patches along a side of the images to which the projection is fitted."""
PATCH_SIDE_LATENTS = 2
"""Latent positions along a side of a patch."""
NUM_FITTED_IMAGES = 2
MIN_DETERMINANT = 1e-3
"""Of two noise levels, below which their latents do not determine the clean ones."""


@dataclass(frozen=True, slots=True)
class LatentProjection:
    """Linear map of latents to colours, with an intercept: weights (C + 1, 3) for values 0..1."""

    weights: Tensor

    def render(self, latents_CHW: Tensor) -> Image.Image:
        """Render latents as a small image, a pixel for each of their positions."""
        values_HWC = latents_CHW.detach().float().cpu().permute(1, 2, 0)
        ones_HW1 = torch.ones_like(values_HWC[..., :1])
        colours_HW3 = torch.cat([values_HWC, ones_HW1], dim=-1) @ self.weights
        pixels_HW3 = colours_HW3.clamp(0, 1).mul(255).round().byte()
        return Image.fromarray(pixels_HW3.numpy())


@torch.no_grad()
def fit_latent_projection(vae: Any) -> LatentProjection:
    """Fit the projection of an autoencoder by least squares to images of flat random patches."""
    generator = torch.Generator().manual_seed(0)
    parameter = next(vae.parameters())
    patch = sd.pixels_per_latent(vae) * PATCH_SIDE_LATENTS
    colours_B3YX = torch.rand(
        NUM_FITTED_IMAGES, 3, PATCHES_PER_SIDE, PATCHES_PER_SIDE, generator=generator
    )
    pixels_B3YX = colours_B3YX.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    latents_BCHW = sd.encode_pixels_to_mean(
        vae, (pixels_B3YX * 2 - 1).to(parameter.device, parameter.dtype)
    )
    latents_CN = latents_BCHW.float().cpu().transpose(0, 1).flatten(1)
    targets_B3HW = colours_B3YX.repeat_interleave(PATCH_SIDE_LATENTS, 2).repeat_interleave(
        PATCH_SIDE_LATENTS, 3
    )
    targets_3N = targets_B3HW.transpose(0, 1).flatten(1)
    values_NC = torch.cat([latents_CN, torch.ones_like(latents_CN[:1])]).T
    return LatentProjection(torch.linalg.lstsq(values_NC, targets_3N.T).solution)


def compute_clean_latents_from_latent_pair(
    scheduler: Scheduler, before: Tensor, after: Tensor, timestep: float, following: float | None
) -> Tensor:
    """Return the clean latents that a step implies, from the latents before and after it.

    For a deterministic sampler these are the denoiser's own: both latents are mixtures of the same
    clean latents and the same noise, at two known levels. Where the levels are not known, or too
    near each other, the latents after the step are returned.

    following : timestep of the next step; None after the last one
    """
    if following is None:
        return after
    try:
        a, s = _mixture_at(scheduler, timestep)
        b, t = _mixture_at(scheduler, following)
    except Exception:  # a schedule without alphas, as those of flow models
        return after
    determinant = b * s - a * t
    if abs(determinant) < MIN_DETERMINANT * math.hypot(a, s) * math.hypot(b, t):
        return after
    return (after * s - before * t) / determinant


def _mixture_at(scheduler: Scheduler, timestep: float) -> tuple[float, float]:
    """Return the parts of clean latents and of noise in a scheduler's latents at a timestep."""
    signal, noise = compute_signal_and_noise_scales(scheduler, timestep)
    starts_at_unit_noise = float(getattr(scheduler, "init_noise_sigma", 1.0)) == 1
    return (signal, noise) if starts_at_unit_noise else (1.0, noise / signal)


def encode_png_base64(image: Image.Image) -> str:
    """Return an image as a PNG in base64."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode()


class PreviewBudget:
    """Share of a run's time that previews may take; asked before each of them."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.spent = self.dearest = 0.0
        self.started = time.perf_counter()

    def allows_preview(self, done: int, steps: int) -> bool:
        """Return True if the time budget allows another preview, after `done` of so many steps."""
        whole = (time.perf_counter() - self.started) * steps / max(done, 1)
        return self.share > 0 and self.spent + self.dearest <= self.share * whole

    def add(self, seconds: float) -> None:
        """Add the seconds that a preview of a run took to its time budget's account."""
        self.spent += seconds
        self.dearest = max(self.dearest, seconds)
