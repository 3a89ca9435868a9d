"""Masks of photos: where an edit may change them."""

import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.images.photo_fitting import Fitting
from pipelines.images.photo_reading import read_upright_picture
from t2i.errors import ArgumentError
from t2i.masks import MASK_MISTAKE_WARNINGS, MIN_WHITE, find_mask_mistake, remove_mask_transparency

MAX_ASPECT_DIFFERENCE = 0.01
"""Largest relative difference of the aspect ratios of a mask and its photo."""


def read_mask_at_photo_size(mask: Any, fitting: Fitting) -> Image.Image:
    """Load the edit mask of a photo from a path, image, array or tensor; return it in mode L at the
    photo's own size, 255 where the photo may change.

    mask : path, Pillow image, or array or tensor (Y, X), boolean or as a picture's; white may
        change, and what is clear is black. It has the size of the photo, or that of the model's
        picture, or their aspect ratio

    Raises ArgumentError for any other size, and for a mask without white in what is shown.
    """
    painted = read_upright_picture("mask", mask_to_gray_array(mask)).picture
    gray = remove_mask_transparency(painted).convert("L")
    gray = gray.point(lambda value: 255 * (value >= MIN_WHITE))
    whole = scale_mask_to_photo(gray, fitting)
    if not fitting.fit_mask(whole).any():
        is_beside = whole.getbbox() is not None and fitting.fit == "crop"
        raise ArgumentError(
            "The mask has no white in what the model is shown of the photo "
            f"({fitting.description}), or too little to be seen there: paint white what may change"
            + (', or show the model all of it: fit="pad", --fit pad.' if is_beside else ".")
        )
    problem = find_mask_mistake(painted)
    if problem in ("white", "hole"):
        warnings.warn(f"The mask {MASK_MISTAKE_WARNINGS[problem]}", stacklevel=2)
    return whole


def mask_to_gray_array(mask: Any) -> Any:
    """Convert a mask given as tensor or array to a two-dimensional array of gray values; anything
    else is returned unchanged. Raises ArgumentError for other shapes.
    """
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        mask = (mask if mask.dtype == torch.bool else mask.float()).numpy()
        if mask.dtype != np.bool_ and mask.size and mask.min() < 0:
            raise ArgumentError("Got a mask with numbers below 0, expected 0 to 1: white is 1.")
    if not isinstance(mask, np.ndarray):
        return mask
    if mask.ndim in (3, 4) and set(mask.shape[:-2]) == {1}:
        mask = mask.reshape(mask.shape[-2:])
    if mask.ndim != 2:
        raise ArgumentError(
            f"Got a mask of shape {mask.shape}, expected one value for each pixel, (height, width)."
        )
    return mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask


def scale_mask_to_photo(mask: Image.Image, fitting: Fitting) -> Image.Image:
    """Return a mask resized to the size of its photo; raise ArgumentError if its aspect ratio does
    not fit.
    """
    photo, shown = (fitting.width, fitting.height), (fitting.model_width, fitting.model_height)
    if mask.size == photo:
        return mask
    if mask.size == shown:
        whole = Image.new("L", photo)
        part = mask.crop(fitting.frame).resize(
            fitting.shown_size_in_photo, Image.Resampling.NEAREST
        )
        whole.paste(part, fitting.box[:2])
        return whole
    size, expected = (f"{one[0]}x{one[1]}" for one in (mask.size, photo))
    if abs(mask.width * photo[1] / (mask.height * photo[0]) - 1) > MAX_ASPECT_DIFFERENCE:
        raise ArgumentError(
            f"Got a mask of {size} pixels for a photo of {expected} (turned upright): draw it on "
            f"the photo itself, or on the picture that the model is shown, {shown[0]}x{shown[1]}."
        )
    warnings.warn(
        f"The mask of {size} pixels is scaled to the {expected} of the photo.", stacklevel=3
    )
    return mask.resize(photo, Image.Resampling.NEAREST)
