"""What every data set hands out: one picture, its caption, and where each named thing is."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """One training example.

    name : where it came from, so that a log line or an error can point at it
    pixels : (H, W, 3) uint8 ndarray
    masks : (K, H, W) bool ndarray, one per thing the caption names, in that order; K may be 0
    marks : (2, H, W) uint8 ndarray, numbers of the kind and the colour of every pixel, where a data
        set labels its pixels
    """

    name: str
    pixels: NDArray[np.uint8]
    caption: str
    masks: NDArray[np.bool_]
    marks: NDArray[np.uint8] | None = None


class Samples(Protocol):
    """A data set: anything that hands out samples by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...
