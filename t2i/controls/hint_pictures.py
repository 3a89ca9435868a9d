"""Pictures and masks of controls as tensors, at the size of the image.

B images, C channels, Y X image size, H W size at a block of the UNet.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from t2i.errors import ArgumentError, format_library_error
from t2i.masks import remove_mask_transparency
from t2i.pictures import open_picture
from t2i.terminal import plural


def convert_hint_pictures_to_tensor(
    picture: Any, size: tuple[int, int], channels: int, options: Mapping[str, Any]
) -> Tensor:
    """Return the hint pictures of a control as a tensor (pictures, channels, Y, X) in 0..1, resized
    as diffusers does.

    size : (height, width) of the image in pixels
    options : further ones of `VaeImageProcessor.preprocess`, where the image is a crop
    """
    processor = build_hint_processor(channels)
    pixels_BCYX = preprocess_pictures("picture", processor, picture, size, options)
    if pixels_BCYX.shape[1] != channels:
        raise ArgumentError(
            f"The picture of a control comes to {tuple(pixels_BCYX.shape)} (pictures, channels, "
            f"height, width), expected {plural(channels, 'channel')}."
        )
    return pixels_BCYX


def prepare_control_mask(
    mask: Any, num_images: int, size: tuple[int, int], options: Mapping[str, Any]
) -> Tensor:
    """Return the mask of a control in 0..1, (num_images, 1, Y, X); ArgumentError for one that is
    black everywhere.

    size, options : as in `convert_hint_pictures_to_tensor`
    """
    mask_B1YX = preprocess_pictures("mask", build_hint_processor(1), mask, size, options).clamp(
        0, 1
    )
    if mask_B1YX.shape[1] != 1:
        raise ArgumentError(
            f"The mask of a control comes to {tuple(mask_B1YX.shape)} (masks, channels, height, "
            "width), expected one channel."
        )
    if not bool((mask_B1YX.flatten(1) > 0).any(dim=1).all()):
        raise ArgumentError(
            "Got a mask of a control that is black everywhere: the control would act nowhere. "
            "Paint white where it is to act, or leave the control out."
        )
    return repeat_per_image("mask", mask_B1YX, num_images)


def build_hint_processor(channels: int) -> VaeImageProcessor:
    """Return diffusers' image processor for control pictures: colour for three channels,
    else gray.
    """
    gray = channels == 1
    processor: VaeImageProcessor = VaeImageProcessor(
        do_normalize=False,
        do_convert_rgb=not gray,
        do_convert_grayscale=gray,
        vae_scale_factor=1,
        vae_latent_channels=0,
    )
    return processor


def preprocess_pictures(
    name: str,
    processor: VaeImageProcessor,
    pictures: Any,
    size: tuple[int, int],
    options: Mapping[str, Any],
) -> Tensor:
    """Convert the pictures of controls to one tensor (pictures, C, Y, X) of finite numbers."""
    several = isinstance(pictures, list | tuple)
    read = (
        [to_processor_input(one) for one in pictures] if several else to_processor_input(pictures)
    )
    try:
        pixels_BCYX: Tensor = processor.preprocess(read, height=size[0], width=size[1], **options)
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"The {name} of a control cannot be used ({format_library_error(error)}): expected "
            "Pillow images, or arrays and tensors in floating point, all of one size."
        ) from error
    if pixels_BCYX.ndim != 4 or 0 in pixels_BCYX.shape or not pixels_BCYX.isfinite().all():
        raise ArgumentError(
            f"The {name} of a control comes to {tuple(pixels_BCYX.shape)} (pictures, channels, "
            "height, width), expected at least one picture of finite numbers."
        )
    if pixels_BCYX.min() < 0 or pixels_BCYX.max() > 1:
        raise ArgumentError(
            f"The {name} of a control has values from {float(pixels_BCYX.min()):g} to "
            f"{float(pixels_BCYX.max()):g}, expected 0 to 1: divide by 255, or give 8 bits."
        )
    return pixels_BCYX.float()


def to_processor_input(picture: Any) -> Any:
    """Return one picture for diffusers to preprocess: files are opened, Pillow images made opaque,
    black where they were transparent, and 8 bits brought to 0..1.
    """
    if isinstance(picture, str | Path):
        picture = open_picture(Path(picture))
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        return picture.astype(np.float32) / 255
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8:
        return picture.float() / 255
    return remove_mask_transparency(picture) if isinstance(picture, Image.Image) else picture


def repeat_per_image(name: str, pixels_BCYX: Tensor, num_images: int) -> Tensor:
    """Return a control's pictures or masks repeated to one row per image: a single one serves all
    images, several serve those of one prompt each.

    name : "picture" or "mask", for messages
    """
    given = pixels_BCYX.shape[0]
    if num_images % given:
        raise ArgumentError(
            f"Got {plural(given, name)} in a control for {plural(num_images, 'image')}: give one, "
            "or one for each prompt."
        )
    return pixels_BCYX.repeat_interleave(num_images // given, dim=0)


def resize_mask_to_block(mask_B1YX: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a control's mask resized to a UNet block's positions, (B, 1, H, W), each the mean over
    its pixels.
    """
    return torch.nn.functional.interpolate(mask_B1YX, size=size, mode="area")
