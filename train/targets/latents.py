"""Latents of training pictures: encoded by the autoencoder, or read from the cache.

B batch rows, C channels, H W size of latents.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from train.batches.micro_batch import MicroBatch


def encode_latent_moments(
    vae: Any, batch: MicroBatch, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return mean and standard deviation of the unscaled latents of a batch, both (B, C, H, W).

    The deviation is None for an autoencoder without a posterior. Moments in the batch are taken as
    they are.
    """
    has_posterior = isinstance(vae, AutoencoderKL)
    if batch.moments_BCHW is not None:
        moments = batch.moments_BCHW.chunk(1 + has_posterior, dim=1)
        return moments[0], moments[1] if has_posterior else None
    with without_vae_autocast(vae, device):
        encoded = vae.encode(batch.pixels_BCHW)
    std_BCHW = encoded.latent_dist.std if has_posterior else None
    return retrieve_latent_mean(encoded), std_BCHW


def retrieve_latent_mean(encoded: Any) -> Tensor:
    """Return the unscaled latents (B, C, H, W) of an encoder's output; of a posterior, the mean."""
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    return latents


def without_vae_autocast(vae: Any, device: torch.device) -> AbstractContextManager[object]:
    """Return a context that turns autocast off for an autoencoder that needs float32 (SDXL's)."""
    upcast = vae.config.get("force_upcast", False)
    return torch.autocast(device.type, enabled=False) if upcast else nullcontext()
