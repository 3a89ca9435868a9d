"""Transforms of a picture to its bucket: scaling to cover it, cropping, mirroring."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from t2i.masks import remove_mask_transparency
from t2i.randomness import derive_seed
from train.data.buckets import Shape, compute_covering_shape
from train.data.decode import BrokenPictureError, composite_over_white, decode_to_rgb_or_rgba
from train.data.picture_checks import (
    HINT_TEXT_IN_ERRORS,
    LOSER_TEXT_IN_ERRORS,
    MASK_TEXT_IN_ERRORS,
    UsablePicture,
)
from train.data.sources.listing import ByteSource, read_byte_source
from train.data.subsets import CropMode

REDUCING_GAP = 3.0
"""Pillow first averages down to this multiple of the size: faster, with no visible loss."""


class CropCorner(NamedTuple):
    """Upper left corner of a crop, in pixels of the picture scaled to cover the bucket."""

    top: int
    left: int


def list_crop_corners(
    one: UsablePicture, bucket: Shape, crop: CropMode, variants: int, seed: int
) -> list[CropCorner]:
    """Return the corners of all crops of a picture without repetition, the center first.

    Random corners depend on the seed and on the picture's content alone.
    """
    covered = compute_covering_shape(one.shape, bucket)
    down, across = covered.height - bucket.height, covered.width - bucket.width
    corners = [CropCorner(down // 2, across // 2)]
    if crop == "random" and (down or across):
        rng = np.random.Generator(np.random.Philox(derive_seed(seed, one.digest, "corners")))
        drawn = rng.random((variants - 1, 2))
        corners += [CropCorner(int(y * (down + 1)), int(x * (across + 1))) for y, x in drawn]
    return list(dict.fromkeys(corners))


@dataclass(frozen=True, slots=True)
class BucketCropAndFlip:
    """Transform of a picture to its bucket's shape: scaling, crop corner, mirroring."""

    bucket: Shape
    corner: CropCorner
    flip: bool


def load_transformed_pixels(
    one: UsablePicture, view: BucketCropAndFlip, alpha_mask: bool, max_pixels: int
) -> NDArray[np.uint8]:
    """Load a picture and return its pixels scaled, cropped and mirrored for its bucket, (H, W, 3).

    Raises BrokenPictureError if the picture cannot be read or has changed since it was checked.
    """
    return _to_rgb(_decode_unchanged(one, max_pixels), one.shape, view, alpha_mask)


def load_transformed_loser(
    one: UsablePicture, view: BucketCropAndFlip, alpha_mask: bool, max_pixels: int
) -> NDArray[np.uint8] | None:
    """Load the worse picture of a preference pair, transformed as the better one, (H, W, 3);
    None without one.

    Raises BrokenPictureError as `load_transformed_pixels`.
    """
    if one.entry.loser is None:
        return None
    data = _read_unchanged(one.entry.loser, LOSER_TEXT_IN_ERRORS, one.loser_digest)
    return _to_rgb(
        decode_to_rgb_or_rgba(data, LOSER_TEXT_IN_ERRORS, max_pixels), one.shape, view, alpha_mask
    )


def _to_rgb(
    picture: Image.Image, shape: Shape, view: BucketCropAndFlip, alpha_mask: bool
) -> NDArray[np.uint8]:
    # With alpha as the mask, transparent pixels keep their colours, which belong to the scene.
    if alpha_mask and picture.mode == "RGBA":
        picture = picture.convert("RGB")
    picture = composite_over_white(picture)
    return _resize_and_crop(picture, shape, view, Image.Resampling.LANCZOS)


def load_transformed_mask(
    one: UsablePicture, view: BucketCropAndFlip, alpha_mask: bool, max_pixels: int
) -> NDArray[np.uint8] | None:
    """Load the loss mask of a picture, transformed as the picture, (H, W), 255 where the loss
    counts; None without a mask.

    Raises BrokenPictureError as `load_transformed_pixels`.
    """
    if one.entry.mask is not None:
        data = _read_unchanged(one.entry.mask, MASK_TEXT_IN_ERRORS, one.mask_digest)
        painted = decode_to_rgb_or_rgba(data, MASK_TEXT_IN_ERRORS, max_pixels)
        mask = remove_mask_transparency(painted).convert("L")
    elif alpha_mask and one.transparent:
        mask = _decode_unchanged(one, max_pixels).getchannel("A")
    else:
        return None
    return _resize_and_crop(mask, one.shape, view, Image.Resampling.BILINEAR)


def load_transformed_hint_file(
    one: UsablePicture, view: BucketCropAndFlip, max_pixels: int
) -> NDArray[np.uint8]:
    """Load the hint of a picture that has one of its own, transformed as the picture, (H, W, 3);
    black where it is transparent, as controls read it.

    Raises BrokenPictureError as `load_transformed_pixels`.
    """
    assert one.entry.hint is not None
    data = _read_unchanged(one.entry.hint, HINT_TEXT_IN_ERRORS, one.hint_digest)
    drawn = decode_to_rgb_or_rgba(data, HINT_TEXT_IN_ERRORS, max_pixels)
    hint = remove_mask_transparency(drawn).convert("RGB")
    return _resize_and_crop(hint, one.shape, view, Image.Resampling.LANCZOS)


def _decode_unchanged(one: UsablePicture, max_pixels: int) -> Image.Image:
    name = one.entry.name
    return decode_to_rgb_or_rgba(
        _read_unchanged(one.entry.source, name, one.digest), name, max_pixels
    )


def _read_unchanged(source: ByteSource, name: str, digest: str) -> bytes:
    """Return the bytes of a source. Raises BrokenPictureError if they changed since the checks."""
    data = read_byte_source(source, name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise BrokenPictureError(name, "is another picture than when the run began")
    return data


def _resize_and_crop(
    picture: Image.Image, shape: Shape, view: BucketCropAndFlip, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    """Return the picture scaled to cover the bucket, cropped and mirrored, (H, W[, 3]).

    shape : of the picture that a mask belongs to, which may have another size
    """
    (height, width), (top, left) = view.bucket, view.corner
    covered = compute_covering_shape(shape, view.bucket)
    scaled = picture.resize((covered.width, covered.height), resampling, reducing_gap=REDUCING_GAP)
    part = scaled.crop((left, top, left + width, top + height))
    return np.array(ImageOps.mirror(part) if view.flip else part)
