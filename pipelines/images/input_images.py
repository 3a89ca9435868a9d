"""Input images of a pipeline: preprocessed, encoded to latents, with their noise and timesteps.

B batch rows (here: images), C channels, H W latent size, Y X image size.
"""

import warnings
from numbers import Real
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from pipelines.loop import GeneratorOrList
from pipelines.run import argument_checks
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError, format_library_error
from t2i.masks import (
    MASK_MISTAKE_WARNINGS,
    MaskMistake,
    find_mask_mistake,
    remove_mask_transparency,
)
from t2i.pictures import to_rgb_or_rgba
from t2i.terminal import plural

Images = Image.Image | np.ndarray[Any, Any] | Tensor | list[Any]
"""One image or several, as in diffusers: Pillow, (H, W, C) array or (C, H, W) tensor."""


def check_image_types(name: str, images: object) -> None:
    """Raise ArgumentError unless the images are Pillow images, arrays or tensors."""
    first = images[0] if isinstance(images, list | tuple) and images else images
    if not isinstance(first, Image.Image | np.ndarray | Tensor):
        raise ArgumentError(
            f"Got {name} of type {type(first).__name__}, expected a Pillow image, an array, a "
            f"tensor, or a list of them: {name}=PIL.Image.open('cat.png')."
        )


def preprocess_images(
    processor: VaeImageProcessor, name: str, images: Any, **options: Any
) -> Tensor:
    """Preprocess images to pixels (B, 3, Y, X) in -1..1 at a size that the VAE reads; images that
    are given as latents stay latents.
    """
    check_image_types(name, images)
    try:
        pixels_BCYX: Tensor = processor.preprocess(images, **options)
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"The {name} cannot be used ({format_library_error(error)}): expected images at least "
            "as large as one latent, arrays and tensors in floating point."
        ) from error
    is_mask = processor.config["do_convert_grayscale"]  # its channels are checked later
    channels = (3, processor.config["vae_latent_channels"])
    flawed = pixels_BCYX.ndim != 4 or 0 in pixels_BCYX.shape
    if flawed or not (is_mask or pixels_BCYX.shape[1] in channels):
        raise ArgumentError(
            f"The {name} comes to {tuple(pixels_BCYX.shape)} (images, channels, height, width), "
            "expected colour images at least as large as one latent."
        )
    return pixels_BCYX.float()


def to_opaque_rgb(images: Any) -> Any:
    """Convert Pillow images to RGB, with white where they are transparent; arrays and tensors are
    unchanged.
    """
    if isinstance(images, list | tuple):
        return [to_opaque_rgb(one) for one in images]
    if not isinstance(images, Image.Image):
        return images
    picture = to_rgb_or_rgba(images)
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def convert_pil_and_bool_masks(masks: Any) -> Any:
    """Convert Pillow masks to gray without transparency, and boolean masks to 1.0 and 0.0.

    All others are unchanged. Warns of masks that are probably a mistake.
    """
    if isinstance(masks, list | tuple):
        return [convert_pil_and_bool_masks(one) for one in masks]
    if isinstance(masks, Tensor) and masks.dtype == torch.bool:
        return masks.float()
    if isinstance(masks, np.ndarray) and masks.dtype == np.bool_:
        return masks.astype(np.float32)
    if not isinstance(masks, Image.Image):
        return masks
    if odd := find_mask_mistake(masks):
        warnings.warn(f"The mask {MASK_MISTAKE_WARNINGS[odd]}", stacklevel=2)
    return remove_mask_transparency(masks)


def is_pil_image(images: Any) -> bool:
    """Return True for a Pillow image or a list of them."""
    first = images[0] if isinstance(images, list | tuple) and images else images
    return isinstance(first, Image.Image)


def check_mask_channels_and_count(mask_BCYX: Tensor, num_images: int, pillow: bool) -> None:
    """Raise ArgumentError for invalid masks; warn of masks that select all or nothing.

    num_images : to be generated
    pillow : the masks were Pillow images, of which `convert_pil_and_bool_masks` has warned
    """
    if mask_BCYX.shape[1] != 1:
        raise ArgumentError(
            f"Got mask_image with {mask_BCYX.shape[1]} channels, expected one: white is 1. Give "
            "that channel alone, or a Pillow image, which is converted to gray."
        )
    if num_images % mask_BCYX.shape[0]:
        raise ArgumentError(
            f"Got {mask_BCYX.shape[0]} masks in mask_image for {plural(num_images, 'image')}: "
            "give one, or one for each prompt. An array or tensor with three axes is read as "
            "masks, one after another (masks, height, width)."
        )
    if pillow:
        return
    for mask_1YX in mask_BCYX:
        if (mask_1YX == mask_1YX.flatten()[0]).all():
            odd: MaskMistake = "white" if mask_1YX.flatten()[0] else "black"
            warnings.warn(f"The mask {MASK_MISTAKE_WARNINGS[odd]}", stacklevel=2)


def encode_images(
    vae: sd.VAE,
    pixels_BCYX: Tensor,
    num_images: int,
    generator: GeneratorOrList | None,
    like: Tensor,
) -> Tensor:
    """Encode images to scaled latents (num_images, C, H, W), repeated if fewer images are given.

    With a list of generators each row draws from its own, so that a batch equals its images one by
    one. Input with as many channels as latents is taken to be latents.
    """
    pixels_BCYX = pixels_BCYX.to(like.device, like.dtype)
    given = pixels_BCYX.shape[0]
    if num_images % given:
        raise ArgumentError(
            f"Got {plural(given, 'image')} for {num_images} to generate: give one, or one for "
            "each prompt."
        )
    if pixels_BCYX.shape[1] == vae.config["latent_channels"]:
        latents_BCHW = pixels_BCYX
    elif isinstance(generator, list):
        pixels_BCYX = torch.cat([pixels_BCYX] * (num_images // given))
        rows = zip(pixels_BCYX.split(1), generator, strict=True)
        latents_BCHW = torch.cat([sd.encode_pixels(vae, row_1CYX, own) for row_1CYX, own in rows])
    else:
        latents_BCHW = sd.encode_pixels(vae, pixels_BCYX, generator)
    return torch.cat([latents_BCHW] * (num_images // latents_BCHW.shape[0])).to(like.dtype)


def prepare_unscaled_starting_noise(
    pipe: Any,
    text_BTD: Tensor,
    height: int | None,
    width: int | None,
    generator: GeneratorOrList | None,
    latents: Tensor | None,
) -> Tensor:
    """Return the starting noise (B, C, H, W) of variance 1, one row per text row: `latents` if
    given, else random numbers.
    """
    default_height, default_width = sd.default_height_and_width(pipe.unet, pipe.vae)
    if isinstance(latents, Tensor) and latents.ndim == 4:
        factor = sd.pixels_per_latent(pipe.vae)
        default_height, default_width = (side * factor for side in latents.shape[-2:])
    height = default_height if height is None else height
    width = default_width if width is None else width
    shape = (
        text_BTD.shape[0],
        pipe.vae.config["latent_channels"],
        *sd.latent_size(pipe.vae, height, width),
    )
    return sample_latent_noise_unless_given(
        shape, generator, latents, text_BTD.device, text_BTD.dtype
    )


def sample_latent_noise_unless_given(
    shape: tuple[int, ...],
    generator: GeneratorOrList | None,
    latents: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return latent noise of a shape and variance 1: the given `latents`, else random numbers drawn
    from `generator`.
    """
    if latents is not None:
        argument_checks.check_latents_shape_and_dtype(latents, shape)
        return latents.to(device, dtype)
    drawn: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
    return drawn


def sample_noise_like(latents_BCHW: Tensor, generator: GeneratorOrList | None) -> Tensor:
    """Sample noise with the shape, device and dtype of given latents."""
    drawn_BCHW: Tensor = randn_tensor(
        latents_BCHW.shape,
        generator=generator,
        device=latents_BCHW.device,
        dtype=latents_BCHW.dtype,
    )
    return drawn_BCHW


def select_strength_timesteps(
    scheduler: Any, num_inference_steps: int, strength: float
) -> tuple[Tensor, int]:
    """Return the last timesteps of the schedule, a fraction `strength` of all, and their number
    of sampling steps.

    Strength 1 takes all of them, 0.5 the second half: `int(num_inference_steps * strength)`, as
    SDEdit (Meng et al. 2021, https://arxiv.org/abs/2108.01073) and diffusers.
    """
    if not isinstance(strength, Real) or not 0 <= strength <= 1:
        raise ArgumentError(
            f"Got strength={strength!r}, expected a number from 0 (the image unchanged) to 1."
        )
    count = min(int(num_inference_steps * strength), num_inference_steps)
    if count < 1:
        raise ArgumentError(
            f"Got strength={strength} with num_inference_steps={num_inference_steps}: less than "
            "one step is left. Raise one of them."
        )
    begin = (num_inference_steps - count) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps: Tensor = scheduler.timesteps[begin:]
    return timesteps, count
