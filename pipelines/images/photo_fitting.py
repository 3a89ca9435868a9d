"""Fitting of a photo of any size to a model's size: cropped, padded or stretched.

Y X image size.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.errors import ArgumentError, suggest_choice

FitMode = Literal["crop", "pad", "stretch"]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

FIT_MODES: tuple[FitMode, ...] = ("crop", "pad", "stretch")


@dataclass(frozen=True, slots=True)
class Fitting:
    """Fitting of a photo to a model's size: the photo's size, the part of it that a model is shown,
    and where that lies in the model's picture.

    width, height : of the photo
    model_width, model_height : of the picture that the model is shown
    box : part of the photo that is shown, in its pixels
    frame : part of the model's picture that shows it, in its pixels; the rest is padding
    """

    fit: FitMode
    width: int
    height: int
    model_width: int
    model_height: int
    box: Box
    frame: Box

    @property
    def shown_size_in_photo(self) -> tuple[int, int]:
        """Width and height, in the photo's pixels, of the part of a photo that the model sees."""
        return get_box_size(self.box)

    @property
    def shown_size_in_model_picture(self) -> tuple[int, int]:
        """Width and height, in pixels of the model's picture, of the area that shows the photo and
        is not padding.
        """
        return get_box_size(self.frame)

    @property
    def cropped_sides(self) -> tuple[bool, bool, bool, bool]:
        """Left, top, right, bottom: True where the photo goes on beyond what the model is shown."""
        left, top, right, bottom = self.box
        return left > 0, top > 0, right < self.width, bottom < self.height

    @property
    def is_enlarged(self) -> bool:
        """True if the photo is enlarged, in width or height, to fit it to the model's size."""
        return any(
            a > b
            for a, b in zip(self.shown_size_in_model_picture, self.shown_size_in_photo, strict=True)
        )

    @property
    def description(self) -> str:
        """Text that describes how a photo was fitted to the model's size, as "4000x3000 pixels,
        cropped to the middle 3000x3000, reduced to 512x512".
        """
        steps = [f"{self.width}x{self.height} pixels"]
        box, frame = (
            f"{width}x{height}"
            for width, height in (self.shown_size_in_photo, self.shown_size_in_model_picture)
        )
        if self.fit == "crop" and self.shown_size_in_photo != (self.width, self.height):
            steps.append(f"cropped to the middle {box}")
        if box != frame:
            verb = "enlarged" if self.is_enlarged else "reduced"
            same_aspect = self.width * self.model_height == self.height * self.model_width
            if self.fit == "stretch" and not same_aspect:
                verb = "stretched"
            steps.append(f"{verb} to {frame}")
        if self.shown_size_in_model_picture != (self.model_width, self.model_height):
            steps.append(f"padded to {self.model_width}x{self.model_height}")
        return ", ".join(steps)

    def fit_picture(self, picture: Image.Image) -> Image.Image:
        """Return a photo cropped, padded or stretched to the model's size; padding repeats the
        outermost pixels.
        """
        shown = picture
        if self.box != (0, 0, *picture.size) or self.shown_size_in_model_picture != picture.size:
            shown = picture.resize(
                self.shown_size_in_model_picture, Image.Resampling.LANCZOS, self.box
            )
        left, top, right, bottom = self.frame
        around = ((top, self.model_height - bottom), (left, self.model_width - right), (0, 0))
        if not any(map(any, around)):
            return shown
        return Image.fromarray(np.pad(np.asarray(shown), around, mode="edge"))

    def fit_mask(self, mask: Image.Image) -> Tensor:
        """Return a photo's mask (mode L) fitted to the model's size, as a tensor (1, 1, Y, X): 1
        for pixels of which it covers half or more; padding is 0.
        """
        shown = mask.resize(self.shown_size_in_model_picture, Image.Resampling.BOX, self.box)
        left, top, right, bottom = self.frame
        mask_11YX = torch.zeros(1, 1, self.model_height, self.model_width)
        covered_YX = torch.from_numpy(np.array(shown)) >= 128
        mask_11YX[0, 0, top:bottom, left:right] = covered_YX.float()
        return mask_11YX

    def map_model_box_to_photo_with_margin(
        self, part: Box
    ) -> tuple[Box, tuple[float, float, float, float]]:
        """Return the box of photo pixels that covers a box of the model's picture, with a margin of
        one of that picture's pixels; and that photo box in the model's coordinates.
        """
        begin, end = [0, 0], [0, 0]
        for axis in (0, 1):
            scale = self.shown_size_in_photo[axis] / self.shown_size_in_model_picture[axis]
            first, last = (part[axis + side] - self.frame[axis] for side in (0, 2))
            begin[axis] = max(0, math.floor((first - 1) * scale))
            end[axis] = min(self.shown_size_in_photo[axis], math.ceil((last + 1) * scale))
        across, down = (
            a / b
            for a, b in zip(self.shown_size_in_model_picture, self.shown_size_in_photo, strict=True)
        )
        left, top = self.frame[:2]
        covered = (
            left + begin[0] * across,
            top + begin[1] * down,
            left + end[0] * across,
            top + end[1] * down,
        )
        x, y = self.box[:2]
        return (x + begin[0], y + begin[1], x + end[0], y + end[1]), covered


def compute_photo_fitting(
    width: int, height: int, model_width: int, model_height: int, fit: str
) -> Fitting:
    """Compute how a photo is fitted to a model's size by cropping, padding or stretching: which
    part the model sees, and where it lies in the model's picture.

    fit : "crop" shows the largest part in the middle that has the model's aspect ratio, "pad" the
        whole photo with padding beside it, "stretch" the whole photo at another aspect ratio
    """
    if fit not in FIT_MODES:
        raise ArgumentError(f"Got fit={fit!r:.80}. {suggest_choice(str(fit), FIT_MODES)}")
    box, frame = (0, 0, width, height), (0, 0, model_width, model_height)
    if fit == "crop":
        box = compute_largest_centered_box(width, height, model_width, model_height)
    elif fit == "pad":
        frame = compute_largest_centered_box(model_width, model_height, width, height)
    return Fitting(fit, width, height, model_width, model_height, box, frame)


def compute_largest_centered_box(width: int, height: int, like_width: int, like_height: int) -> Box:
    """Return the largest box in the middle of a size with another size's aspect ratio."""
    across = min(width, max(1, round(height * like_width / like_height)))
    down = min(height, max(1, round(width * like_height / like_width)))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def get_box_size(box: Box) -> tuple[int, int]:
    """Return width and height of a box."""
    return box[2] - box[0], box[3] - box[1]
