"""Hints of pictures, which controls are trained to read: files of their own, or made on the fly.

H W size of a bucket.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.controls.hints import HintKind, make_hint
from train.data.decode import decode_to_rgb_or_rgba
from train.data.picture_checks import UsablePicture
from train.data.transforms import BucketTransform, load_transformed_hint_file

TRIAL_SIDE = 64
"""Side in pixels of the picture on which settings are tried before anything is read."""


@dataclass(frozen=True, slots=True)
class HintFunction:
    """Function that makes the hint of a picture, one of `t2i hint`, with its settings."""

    kind: HintKind
    settings: Mapping[str, int | float]

    def __call__(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the hint of a picture, (H, W, 3), at its size."""
        picture = Image.fromarray(pixels_HWC)
        hint = make_hint(self.kind, picture, resolution=None, **self.settings)
        return np.asarray(hint.convert("RGB"))

    def check_settings(self) -> None:
        """Raise ArgumentError for wrong settings, and without OpenCV."""
        self(np.zeros((TRIAL_SIDE, TRIAL_SIDE, 3), dtype=np.uint8))

    @property
    def cache_key(self) -> str:
        """Text that is equal for equal hints of one picture."""
        return " ".join([self.kind, *(f"{k}={v:g}" for k, v in sorted(self.settings.items()))])


def load_hint(
    one: UsablePicture,
    view: BucketTransform,
    function: HintFunction | None,
    pixels_HWC: NDArray[np.uint8],
    max_pixels: int,
) -> NDArray[np.uint8] | None:
    """Return the hint of a picture, cropped and mirrored as the picture, (H, W, 3); None without
    one.

    function : makes the hint where it has no file
    pixels_HWC : of the picture, cropped and mirrored

    Raises BrokenPictureError for a file that cannot be read or has changed since it was checked.
    """
    if one.entry.hint is not None:
        return load_transformed_hint_file(one, view, max_pixels)
    return None if function is None else function(pixels_HWC)


def describe_hint_for_cache(one: UsablePicture, function: HintFunction | None) -> str:
    """Return the part of a cache key that says which hint a picture has; "" without one."""
    if one.hint_digest:
        return f"hint {one.hint_digest}"
    return "" if function is None else f"hint {function.cache_key}"


def compress_hint(hint_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a hint as the bytes of a PNG, in an array for the cache."""
    file = io.BytesIO()
    Image.fromarray(hint_HWC).save(file, "PNG")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def decompress_hint(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the hint (H, W, 3) that `compress_hint` compressed."""
    return np.array(decode_to_rgb_or_rgba(data.tobytes(), "a hint of the cache"))
