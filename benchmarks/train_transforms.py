"""The few transforms of torchvision that diffusers' training scripts need, where it is missing.

Same arguments, through the same functions of Pillow and torch, for pictures of Pillow alone. Those
of random crops and flips are not among them: the benchmark asks for neither.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Transform = Callable[[Any], Any]


class InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class Compose:
    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = transforms

    def __call__(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return value


class Lambda:
    def __init__(self, function: Transform) -> None:
        self.function = function

    def __call__(self, value: Any) -> Any:
        return self.function(value)


class Resize:
    """The shorter side becomes `size`."""

    def __init__(self, size: int, interpolation: InterpolationMode) -> None:
        self.size, self.filter = size, Image.Resampling[interpolation.name]

    def __call__(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        width, height = (self.size * side // short for side in picture.size)
        return picture.resize((width, height), self.filter)


class CenterCrop:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        left, top = (round((side - self.size) / 2) for side in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))


class ToTensor:
    def __call__(self, picture: Image.Image) -> Tensor:
        pixels_HWC = torch.from_numpy(np.array(picture, copy=True))
        return pixels_HWC.permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean_C11, self.std_C11 = (torch.tensor(each)[:, None, None] for each in (mean, std))

    def __call__(self, pixels_CHW: Tensor) -> Tensor:
        return pixels_CHW.clone().sub_(self.mean_C11).div_(self.std_C11)
