"""Colours of the surroundings for the masked part of a picture (A1111's inpainting_fill 0).

Y X image size, y x half of it, C channels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]
MIDDLE_GRAY = 127.5


def fill_mask_from_surroundings(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return a picture with the colours around the mask spread smoothly over its white part.

    Pull-push: missing pixels come from the picture at half the size, filled the same way
    (Gortler et al. 1996, "The Lumigraph", section 4.3).

    mask : L, of the picture's size; 128 and above is filled
    """
    pixels_YXC = np.asarray(picture.convert("RGB"), np.float32)
    known_YX1 = (np.asarray(mask.convert("L")) < 128).astype(np.float32)[..., None]
    filled_YXC = _pull_push(pixels_YXC * known_YX1, known_YX1)
    return Image.fromarray(np.clip(np.rint(filled_YXC), 0, 255).astype(np.uint8))


def _pull_push(sums_YXC: Pixels, weights_YX1: Pixels) -> Pixels:
    """Return colours for weighted sums of colours; where the weight is low, from half the size."""
    height, width = weights_YX1.shape[:2]
    if height == width == 1:
        means: Pixels = np.where(
            weights_YX1 > 0, sums_YXC / np.maximum(weights_YX1, 1e-6), np.float32(MIDDLE_GRAY)
        )
        return means
    sums_yxC, weights_yx1 = _halve(sums_YXC), _halve(weights_YX1)
    excess_yx1: Pixels = np.maximum(weights_yx1, np.float32(1))
    coarse_yxC = _pull_push(sums_yxC / excess_yx1, weights_yx1 / excess_yx1)
    coarse_YXC = _resize(coarse_yxC, width, height)
    # A weight of 1 is a pixel that is known, or whose neighbours are.
    filled: Pixels = sums_YXC + (1 - weights_YX1) * coarse_YXC
    return filled


def _halve(pixels_YXC: Pixels) -> Pixels:
    """Return the sums of blocks of 2 x 2, an odd last row or column alone."""
    height, width, channels = pixels_YXC.shape
    padded = np.pad(pixels_YXC, ((0, height % 2), (0, width % 2), (0, 0)))
    blocks = padded.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    sums: Pixels = blocks.sum(axis=(1, 3))
    return sums


def _resize(pixels_YXC: Pixels, width: int, height: int) -> Pixels:
    """Return pixels enlarged linearly to a size."""
    channels = [
        np.asarray(
            Image.fromarray(pixels_YXC[..., channel]).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for channel in range(pixels_YXC.shape[2])
    ]
    return np.stack(channels, axis=-1)
