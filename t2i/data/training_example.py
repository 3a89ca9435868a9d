"""One training example of any data set: a picture, its caption, and masks of what it names."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class OriginalSizeAndCrop(NamedTuple):
    """Original size and crop corner of a picture in pixels, the micro-conditioning of SDXL."""

    original: tuple[int, int]
    """Height and width before it was resized."""
    corner: tuple[int, int]
    """Top and left of the crop in the resized picture."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One training example: a picture or its cached latents, its caption, masks and loss weights.

    name : where it came from, so that a log line or an error can point at it
    pixels : (H, W, 3) uint8 ndarray; (H, W, 0) where `moments` stand for the picture
    masks : (K, H, W) bool ndarray, one per thing the caption names, in that order; K may be 0
    label_maps : (2, H, W) uint8 ndarray, kind and colour index of every pixel, where a data set
        labels its pixels
    weight : weight of its loss relative to other examples
    loss_mask : (H, W) uint8 ndarray, 255 where the loss counts and 0 where not, or None: everywhere
    moments : (2C, h, w) float32 ndarray, mean and standard deviation of its latents, from a cache;
        (C, h, w) of an autoencoder that knows no deviation
    spans : for each mask, first and end of the letters of the caption that name what it shows; or
        none at all, where a data set does not say
    hint : (H, W, 3) uint8 ndarray, the picture that a control reads, or None
    loser, loser_moments : as `pixels` and `moments`, of the worse picture of a preference pair of
        which this is the better
    """

    name: str
    pixels: NDArray[np.uint8]
    caption: str
    masks: NDArray[np.bool_]
    label_maps: NDArray[np.uint8] | None = None
    weight: float = 1.0
    loss_mask: NDArray[np.uint8] | None = None
    size_and_crop: OriginalSizeAndCrop | None = None
    moments: NDArray[np.float32] | None = None
    spans: tuple[tuple[int, int], ...] = ()
    loser: NDArray[np.uint8] | None = None
    loser_moments: NDArray[np.float32] | None = None
    hint: NDArray[np.uint8] | None = None
