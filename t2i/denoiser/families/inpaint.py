"""Inpainting UNets: beside the noisy latents they read the mask and the picture without its hole.

B batch rows (here: pictures), C channels, H W latent size, Y X picture size.
"""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from t2i.errors import ModelError


def reads_the_mask(unet: UNet2DConditionModel, latent_channels: int) -> bool:
    """True for a UNet made for inpainting, False for one that draws whole pictures.

    Raises ModelError for a UNet that is neither.
    """
    channels = unet.config["in_channels"]
    with_mask = 2 * latent_channels + 1
    if channels not in (latent_channels, with_mask):
        raise ModelError(
            f"This UNet reads {channels} channels; with an autoencoder of {latent_channels} it can "
            f"inpaint with {latent_channels} (any model) or {with_mask} (one made for inpainting)."
        )
    return bool(channels == with_mask)


def mask_on_latents(mask_B1YX: Tensor, height: int, width: int) -> Tensor:
    """The mask (B, 1, H, W) at the latents' size: 1 where the picture is drawn anew."""
    return torch.nn.functional.interpolate(mask_B1YX, size=(height, width))


def channels(mask_B1HW: Tensor, masked_BCHW: Tensor) -> Tensor:
    """What stands behind the noisy latents: (B, 1 + C, H, W)."""
    return torch.cat([mask_B1HW, masked_BCHW], dim=1)
