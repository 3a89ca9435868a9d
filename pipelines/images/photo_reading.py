"""Reading of photos as they come: turned upright, with what their file says of them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps
from torch import Tensor

from pipelines.images.colour_profiles import convert_to_srgb
from t2i.errors import ArgumentError, DataError
from t2i.exif import reset_exif_orientation_and_size
from t2i.pictures import (
    DECODE_ERRORS,
    MAX_PIXELS,
    build_too_large_error,
    opening_picture_as_stored,
    to_rgb_or_rgba,
)

DAMAGED_EXIF_ERRORS = (*DECODE_ERRORS, TypeError, KeyError)
"""What Pillow raises for damaged Exif."""
CONVERTIBLE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I", "CMYK", "YCbCr", "HSV")
"""Modes that become RGB by a formula; so do those of 16 bits, which begin with "I;"."""
PROFILED_MODES = ("L", "LA", "CMYK")
"""Modes that become sRGB by their profile."""


@dataclass(frozen=True, slots=True)
class UprightPictureWithProfile:
    """Picture that was turned upright by its Exif orientation, with its Exif block and colour
    profile.

    picture : RGB, or RGBA where it may be transparent, in the colours of its profile
    exif : its Exif block, for a picture that is upright; b"" for none
    icc_profile : b"" for sRGB
    """

    picture: Image.Image
    exif: bytes = b""
    icc_profile: bytes = b""


def read_upright_picture(name: str, picture: Any) -> UprightPictureWithProfile:
    """Return a picture upright, from the path of a PNG, JPEG or WebP, a Pillow image, an array or
    a tensor.

    Arrays (Y, X[, 3]) have 8 bits, or numbers from 0 to 1; tensors ([1, ]3, Y, X) too. The number
    of pixels is checked before a file is decoded. Raises DataError for files that are no picture
    or damaged, ArgumentError for everything else that is none.

    name : of the picture, for messages
    """
    if isinstance(picture, str | Path):
        with opening_picture_as_stored(Path(picture)) as decoded:
            warn_if_animation(name, decoded)
            return turn_upright_and_convert_to_rgb(name, decoded)
    if isinstance(picture, Image.Image):
        check_pixel_count(name, picture.size)
        try:
            picture.load()
        except DECODE_ERRORS as error:
            raise DataError(f"Cannot decode the {name}: {error}. Get a fresh copy.") from error
        warn_if_animation(name, picture)
        return turn_upright_and_convert_to_rgb(name, picture)
    if isinstance(picture, np.ndarray | Tensor):
        return UprightPictureWithProfile(array_to_picture(name, picture))
    raise ArgumentError(
        f"Got {name} of type {type(picture).__name__}, expected the path of a PNG, JPEG or WebP, a "
        f"Pillow image, an array or a tensor: {name}=PIL.Image.open('cat.png')."
    )


def warn_if_animation(name: str, picture: Image.Image) -> None:
    """Warn if a picture is an animation, of which only one frame is read.

    The further pictures in a phone's JPEG (a preview, a map of brightness) are no frames.
    """
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in ("JPEG", "MPO"):
        warnings.warn(
            f"The {name} is an animation of {frames} frames, of which one is read: number "
            f"{picture.tell() + 1}.",
            stacklevel=3,
        )


def check_pixel_count(name: str, size: tuple[int, int]) -> None:
    """Raise DataError for an image size of too many pixels, ArgumentError for one without
    pixels.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise build_too_large_error(f"The {name}", f"{width}x{height} pixels")
    if width * height == 0:
        raise ArgumentError(f"Got a {name} of {width}x{height} pixels, expected at least one.")


def turn_upright_and_convert_to_rgb(name: str, picture: Image.Image) -> UprightPictureWithProfile:
    """Turn a decoded picture upright by its Exif orientation and convert it to RGB or RGBA; return
    it with Exif block and colour profile.

    Other colours (CMYK, gray) become sRGB, by their profile if they have one; of 16 bits the upper
    8 are kept. Damaged Exif and unusable profiles are left out with a warning.
    """
    turned, exif = picture, b""
    try:
        turned = ImageOps.exif_transpose(picture)
        if block := find_exif_block(picture):
            exif = reset_exif_orientation_and_size(block, *turned.size)
    except DAMAGED_EXIF_ERRORS as error:
        what = "it is not kept" if turned is not picture else "the picture is not turned"
        warnings.warn(
            f"The Exif of the {name} is damaged ({error!r:.100}): {what}.",
            stacklevel=2,
        )
    mode, profile = turned.mode, picture.info.get("icc_profile") or b""
    if mode not in CONVERTIBLE_MODES and not mode.startswith("I;"):
        raise ArgumentError(
            f"Got a {name} of mode {mode}, expected RGB, gray or CMYK: convert it first, with "
            "convert('RGB')."
        )
    describes_rgb = mode in ("RGB", "RGBA", "P")
    if profile and mode in PROFILED_MODES:
        alpha = turned.convert("RGBA").getchannel("A") if turned.has_transparency_data else None
        turned = convert_to_srgb(name, turned.convert("L") if mode == "LA" else turned, profile)
        if alpha is not None:
            turned.putalpha(alpha)
    plain = to_rgb_or_rgba(turned)
    plain = plain.copy() if plain is picture else plain
    plain.info = {}
    return UprightPictureWithProfile(plain, exif, profile if describes_rgb else b"")


def find_exif_block(picture: Image.Image) -> bytes:
    """Return the Exif block of a picture's file; b"" for none."""
    block = picture.info.get("exif")
    if block is None and "Raw profile type exif" in picture.info:  # ImageMagick's PNGs
        block = picture.getexif().tobytes()
    return block if isinstance(block, bytes) else b""


def array_to_picture(name: str, array: Any) -> Image.Image:
    """Return an array or tensor of one picture as a Pillow image of 8 bits, in RGB or RGBA."""
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim in (2, 3):
        try:
            check_pixel_count(name, (array.shape[1], array.shape[0]))
            return to_rgb_or_rgba(Image.fromarray(array))
        except TypeError as error:
            raise build_shape_error(name, array) from error
    processor = VaeImageProcessor(do_resize=False)
    if isinstance(array, Tensor) and array.dtype == torch.uint8:
        array = array / 255
    try:
        pixels_BCYX: Tensor = processor.preprocess(array)
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise build_shape_error(name, array) from error
    flawed = pixels_BCYX.ndim != 4 or 0 in pixels_BCYX.shape
    flawed = flawed or not pixels_BCYX.isfinite().all()
    if flawed or pixels_BCYX.shape[0] != 1 or pixels_BCYX.shape[1] not in (1, 3):
        raise build_shape_error(name, array)
    check_pixel_count(name, (pixels_BCYX.shape[3], pixels_BCYX.shape[2]))
    images: list[Image.Image] = processor.postprocess(pixels_BCYX.float().expand(-1, 3, -1, -1))
    return images[0]


def build_shape_error(name: str, array: Any) -> ArgumentError:
    """Return an ArgumentError for an array or tensor that is not one picture."""
    return ArgumentError(
        f"Got a {name} of shape {tuple(array.shape)} and type {array.dtype}, expected one picture "
        "in colour: an array (height, width, 3) or a tensor (3, height, width), of 8 bits or of "
        "finite numbers from 0 to 1."
    )
