"""Inpainting UNets, whose input has a mask and the masked image beside the noisy latents.

B batch rows (here: images), C channels, H W latent size, Y X image size.
"""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from t2i.errors import ModelError


def is_inpainting_unet(unet: UNet2DConditionModel, latent_channels: int) -> bool:
    """Return True for a UNet made for inpainting, False for an ordinary one.

    Raises ModelError for a UNet with any other number of input channels.
    """
    channels = unet.config["in_channels"]
    with_mask = 2 * latent_channels + 1
    if channels not in (latent_channels, with_mask):
        raise ModelError(
            f"This UNet reads {channels} channels; with an autoencoder of {latent_channels} it can "
            f"inpaint with {latent_channels} (any model) or {with_mask} (one made for inpainting)."
        )
    return bool(channels == with_mask)


def resize_mask_to_latents(mask_B1YX: Tensor, height: int, width: int) -> Tensor:
    """Resize an inpainting mask to the latents' size, (B, 1, H, W); 1 marks the region to
    inpaint.
    """
    return torch.nn.functional.interpolate(mask_B1YX, size=(height, width))


def join_mask_and_masked_latents(mask_B1HW: Tensor, masked_BCHW: Tensor) -> Tensor:
    """Concatenate the mask and the masked image's latents to the channels (B, 1 + C, H, W) that an
    inpainting UNet reads beside the noisy latents.
    """
    return torch.cat([mask_B1HW, masked_BCHW], dim=1)
