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
from train.data.transforms import BucketCropAndFlip, load_transformed_hint_file

TRIAL_SIDE = 64
"""Side in pixels of the picture on which settings are tried before anything is read."""


@dataclass(frozen=True, slots=True)
class ConfiguredHintFunction:
    """Configured hint function: a callable that computes the hint of a picture (such as its edges)
    for training a control, of one of the kinds of `t2i hint`, with its settings.
    """

    kind: HintKind
    settings: Mapping[str, int | float]

    def __call__(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the hint of a picture, (H, W, 3), at its size."""
        picture = Image.fromarray(pixels_HWC)
        hint = make_hint(self.kind, picture, resolution=None, **self.settings)
        return np.asarray(hint.convert("RGB"))

    def check_settings(self) -> None:
        """Try the hint function on a small black picture, so that it raises ArgumentError for wrong
        settings or if OpenCV is not installed.
        """
        self(np.zeros((TRIAL_SIDE, TRIAL_SIDE, 3), dtype=np.uint8))

    @property
    def cache_key(self) -> str:
        """Kind and settings of the hint function as text, for cache keys: where it is equal, equal
        pictures get equal hints.
        """
        return " ".join([self.kind, *(f"{k}={v:g}" for k, v in sorted(self.settings.items()))])


def load_or_compute_transformed_hint(
    one: UsablePicture,
    view: BucketCropAndFlip,
    function: ConfiguredHintFunction | None,
    pixels_HWC: NDArray[np.uint8],
    max_pixels: int,
) -> NDArray[np.uint8] | None:
    """Load the hint file of a picture, cropped and mirrored as the picture, or compute the hint
    from its pixels if it has no file; (H, W, 3), or None if there is no hint function either.

    function : makes the hint where it has no file
    pixels_HWC : of the picture, cropped and mirrored

    Raises BrokenPictureError for a file that cannot be read or has changed since it was checked.
    """
    if one.entry.hint is not None:
        return load_transformed_hint_file(one, view, max_pixels)
    return None if function is None else function(pixels_HWC)


def build_hint_cache_key_part(one: UsablePicture, function: ConfiguredHintFunction | None) -> str:
    """Return the part of a picture's cache key that identifies its hint, from the digest of the
    hint's file or the hint function's settings; "" if it has no hint.
    """
    if one.hint_digest:
        return f"hint {one.hint_digest}"
    return "" if function is None else f"hint {function.cache_key}"


def encode_hint_as_png_array(hint_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode the hint of a picture (H, W, 3) as a PNG and return its bytes as a uint8 array, to be
    stored in the cache.
    """
    file = io.BytesIO()
    Image.fromarray(hint_HWC).save(file, "PNG")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def decode_hint_from_png_array(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode the hint of a picture, (H, W, 3) uint8, from the array of PNG bytes that the cache
    stores.
    """
    return np.array(decode_to_rgb_or_rgba(data.tobytes(), "a hint of the cache"))
