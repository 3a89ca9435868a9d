"""Shapes that pictures are brought to, so that those of a batch agree and little is cut off."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple


class Shape(NamedTuple):
    """Of a picture, in pixels."""

    height: int
    width: int


@cache
def buckets_of(size: int, step: int, max_aspect: float) -> tuple[Shape, ...]:
    """For each width the greatest height within size x size pixels, and each of them turned.

    All sides are multiples of `step`, and no longer side is more than `max_aspect` shorter ones.
    """
    shapes = set()
    for width in range(step, size * size // step + 1, step):
        height = size * size // width // step * step
        if height and max(height, width) <= max_aspect * min(height, width):
            shapes |= {Shape(height, width), Shape(width, height)}
    return tuple(sorted(shapes))


def nearest_bucket(picture: Shape, buckets: Sequence[Shape]) -> Shape:
    """The bucket whose proportions the picture has most nearly; of equal ones the largest."""

    def away(bucket: Shape) -> tuple[float, int, int]:
        # As a product, and so exact: which of two ratios is the farther from 1.
        across, along = bucket.width * picture.height, bucket.height * picture.width
        ratio = max(across, along) / min(across, along)
        return ratio, -bucket.height * bucket.width, bucket.height

    return min(buckets, key=away)


def covering(picture: Shape, bucket: Shape) -> Shape:
    """The picture's shape when it is scaled until it just covers the bucket."""
    scale = max(bucket.height / picture.height, bucket.width / picture.width)
    return Shape(
        max(bucket.height, math.floor(picture.height * scale + 0.5)),
        max(bucket.width, math.floor(picture.width * scale + 0.5)),
    )


def is_enlarged(picture: Shape, bucket: Shape) -> bool:
    return picture.height < bucket.height or picture.width < bucket.width
