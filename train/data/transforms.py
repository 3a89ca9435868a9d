"""A picture as it is seen: scaled to cover its bucket, cropped, mirrored if asked."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from t2i.masks import flatten_mask
from t2i.randomness import derive_seed
from train.data.buckets import Shape, covering
from train.data.decode import BrokenPicture, decode, over_white
from train.data.sources.listed import Source, read_bytes
from train.data.subsets import Crop
from train.data.survey import LOSER, MASK, Seen

GAP = 3.0
"""Pillow first averages whole pixels down to this many times the size: faster, no worse to see."""


class Corner(NamedTuple):
    """Of a crop, in pixels of the picture that covers the bucket."""

    top: int
    left: int


def corners_of(one: Seen, bucket: Shape, crop: Crop, variants: int, seed: int) -> list[Corner]:
    """Where the picture may be cut, without repetition: first in the center, then, if crops are
    random, at places that depend on the seed and on its content alone."""
    covered = covering(one.shape, bucket)
    down, across = covered.height - bucket.height, covered.width - bucket.width
    corners = [Corner(down // 2, across // 2)]
    if crop == "random" and (down or across):
        rng = np.random.Generator(np.random.Philox(derive_seed(seed, one.digest, "corners")))
        drawn = rng.random((variants - 1, 2))
        corners += [Corner(int(y * (down + 1)), int(x * (across + 1))) for y, x in drawn]
    return list(dict.fromkeys(corners))


@dataclass(frozen=True, slots=True)
class View:
    """How a picture is brought to its bucket's shape.

    corner : of the crop, in the picture scaled until it just covers the bucket
    """

    bucket: Shape
    corner: Corner
    flip: bool


def pixels_of(one: Seen, view: View, alpha_mask: bool, max_pixels: int) -> NDArray[np.uint8]:
    """What is seen of it, (H, W, 3).

    Raises BrokenPicture where the picture cannot be read, or is not the one it was.
    """
    return coloured(decoded(one, max_pixels), one.shape, view, alpha_mask)


def loser_of(one: Seen, view: View, alpha_mask: bool, max_pixels: int) -> NDArray[np.uint8] | None:
    """The worse one of its pair, seen alike, (H, W, 3); None without one. Raises as `pixels_of`."""
    if one.listed.loser is None:
        return None
    data = unchanged(one.listed.loser, LOSER, one.loser_digest)
    return coloured(decode(data, LOSER, max_pixels), one.shape, view, alpha_mask)


def coloured(picture: Image.Image, shape: Shape, view: View, alpha_mask: bool) -> NDArray[np.uint8]:
    # Masked by its alpha, what is transparent keeps its colours: they are the scene's own.
    if alpha_mask and picture.mode == "RGBA":
        picture = picture.convert("RGB")
    picture = over_white(picture)
    return shown(picture, shape, view, Image.Resampling.LANCZOS)


def mask_of(one: Seen, view: View, alpha_mask: bool, max_pixels: int) -> NDArray[np.uint8] | None:
    """Where the loss counts, (H, W), or None where everything does. Raises as `pixels_of`."""
    if one.listed.mask is not None:
        data = unchanged(one.listed.mask, MASK, one.mask_digest)
        mask = flatten_mask(decode(data, MASK, max_pixels)).convert("L")
    elif alpha_mask and one.transparent:
        mask = decoded(one, max_pixels).getchannel("A")
    else:
        return None
    return shown(mask, one.shape, view, Image.Resampling.BILINEAR)


def decoded(one: Seen, max_pixels: int) -> Image.Image:
    name = one.listed.name
    return decode(unchanged(one.listed.source, name, one.digest), name, max_pixels)


def unchanged(source: Source, name: str, digest: str) -> bytes:
    """Raises BrokenPicture where these are not the bytes that they were."""
    data = read_bytes(source, name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise BrokenPicture(name, "is another picture than when the run began")
    return data


def shown(
    picture: Image.Image, shape: Shape, view: View, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    """Scaled to cover the bucket, cropped, mirrored.

    shape : of the picture; a mask may have another size
    """
    (height, width), (top, left) = view.bucket, view.corner
    covered = covering(shape, view.bucket)
    scaled = picture.resize((covered.width, covered.height), resampling, reducing_gap=GAP)
    part = scaled.crop((left, top, left + width, top + height))
    return np.array(ImageOps.mirror(part) if view.flip else part)
