"""Masks of image prompts: the part of the image in which an IP-Adapter acts.

B batch rows, I images of one adapter, Y X image size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from torch import Tensor

from t2i.conditioning.run_state import RunState
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from t2i.masks import remove_mask_transparency
from t2i.terminal import plural

MASKS_OPTION = "ip_adapter_masks"
"""Name of the masks in cross_attention_kwargs, as in diffusers."""


def prepare_attention_options(pipe: Any, run: RunState) -> Mapping[str, object] | None:
    """Return the current call's cross_attention_kwargs with "ip_adapter_masks" as diffusers'
    processors take them: for each adapter None or a tensor (1, I, Y, X) of zeros and ones.

    In the call each mask may also be a picture, or a list with one for each image of the adapter,
    white where the image prompt acts; it is resized to the image's size.

    Raises ArgumentError for masks without image prompts, for other numbers of masks than of
    adapters or of their images, and for scales per image without masks.
    """
    options: Mapping[str, object] | None = pipe.cross_attention_kwargs
    height, width = (side * sd.pixels_per_latent(pipe.vae) for side in run.latents_BCHW.shape[2:])
    extra = run.conditioning.extra
    prompts = [extra[name] for name in extra if name.startswith(sd.IMAGE_PROMPT_PREFIX)]
    if options is None or options.get(MASKS_OPTION) is None:
        check_scales_per_image(pipe.unet, prompts, [None] * len(prompts))
        return options
    if not prompts:
        raise ArgumentError(
            f"Got {MASKS_OPTION} without an image prompt: a mask says where the image of an "
            "IP-Adapter acts. Give ip_adapter_image, too, or leave the masks out."
        )
    given = options[MASKS_OPTION]
    if isinstance(given, Tensor):  # (adapters, 1, Y, X), the older form
        given = list(given.unsqueeze(1))
    masks = list(given) if isinstance(given, list | tuple) else [given]
    if len(masks) != len(prompts):
        raise ArgumentError(
            f"Got {plural(len(masks), 'mask')} for {plural(len(prompts), 'IP-Adapter')}: give a "
            "list with one for each, None for the whole image."
        )
    prepared = [
        mask if mask is None else prepare_mask(number, mask, prompt.shape[1], height, width)
        for number, (mask, prompt) in enumerate(zip(masks, prompts, strict=True))
    ]
    check_scales_per_image(pipe.unet, prompts, prepared)
    if all(mask is None for mask in prepared):
        return {name: value for name, value in options.items() if name != MASKS_OPTION}
    return {**options, MASKS_OPTION: prepared}


def check_scales_per_image(
    unet: Any, prompts: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> None:
    """Raise ArgumentError for an IP-Adapter with a scale for each image that has no masks, by which
    alone its images are told apart, or another number of images.

    prompts, masks : of each adapter, (B, I, ...) and (1, I, Y, X)
    """
    if not prompts:
        return
    for processor in unet.attn_processors.values():
        scales = getattr(processor, "scale", None)
        if not isinstance(scales, list):
            continue
        for number, (scale, prompt, mask) in enumerate(zip(scales, prompts, masks, strict=True)):
            if isinstance(scale, list) and (mask is None or len(scale) != prompt.shape[1]):
                masked = "no masks" if mask is None else "masks"
                raise ArgumentError(
                    f"IP-Adapter {number} has {plural(len(scale), 'scale')}, one per image, for "
                    f"{plural(prompt.shape[1], 'image')} with {masked}: give as many, and "
                    f"{MASKS_OPTION} with a mask for each image, or a single number as its scale."
                )


def prepare_mask(number: int, mask: object, images: int, height: int, width: int) -> Tensor:
    """Return the masks of one adapter's images, (1, I, Y, X), from a tensor or pictures.

    number : of the adapter, for messages
    """
    name = f"{MASKS_OPTION}[{number}]"
    if isinstance(mask, Tensor):
        if mask.ndim != 4 or mask.shape[0] != 1:
            raise ArgumentError(
                f"Got {name} of the shape {tuple(mask.shape)}, expected (1, images of the "
                "adapter, height, width) with values from 0 to 1, or a picture."
            )
        prepared = mask
    else:
        pictures = list(mask) if isinstance(mask, list | tuple) else [mask]
        prepared = _masks_from_pictures(name, pictures, height, width)
    if prepared.shape[1] != images:
        raise ArgumentError(
            f"Got {plural(prepared.shape[1], 'mask')} in {name} for "
            f"{plural(images, 'image')} of this adapter: give one for each."
        )
    if not ((prepared >= 0) & (prepared <= 1)).all():
        raise ArgumentError(
            f"Got {name} with numbers that are not from 0 to 1: give 1 where the image prompt acts "
            "at full strength, 0 where it does not act."
        )
    return prepared


def _masks_from_pictures(name: str, pictures: Sequence[Any], height: int, width: int) -> Tensor:
    if not pictures:
        raise ArgumentError(f"Got {name}, an empty list: give a mask for each image, or None.")
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise ArgumentError(
                f"Got {name} of type {type(picture).__name__}, expected a picture, a list of "
                "pictures, a tensor (1, images of the adapter, height, width), or None."
            )
    gray = [remove_mask_transparency(picture).convert("L") for picture in pictures]
    masks_I1YX: Tensor = IPAdapterMaskProcessor().preprocess(gray, height=height, width=width)
    if any(not mask.any() for mask in masks_I1YX):
        raise ArgumentError(
            f"Got {name}, which is black all over: the image prompt would act nowhere. Paint "
            "white where it is to act."
        )
    return masks_I1YX.transpose(0, 1)
