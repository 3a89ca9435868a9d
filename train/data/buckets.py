"""Buckets: image shapes of about equal area, so that the pictures of a batch have one shape."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple


class Shape(NamedTuple):
    """Height and width of a picture, in pixels."""

    height: int
    width: int


@cache
def list_bucket_shapes(size: int, step: int, max_aspect: float) -> tuple[Shape, ...]:
    """Return the shapes of all buckets: for each width the greatest height within size x size
    pixels.

    Portrait and landscape both; sides are multiples of `step`, with an aspect ratio of at most
    `max_aspect`.
    """
    shapes = set()
    for width in range(step, size * size // step + 1, step):
        height = size * size // width // step * step
        if height and max(height, width) <= max_aspect * min(height, width):
            shapes |= {Shape(height, width), Shape(width, height)}
    return tuple(sorted(shapes))


def find_nearest_bucket(picture: Shape, buckets: Sequence[Shape]) -> Shape:
    """Return the bucket with the aspect ratio nearest to the picture's, the largest of equals."""

    def distance(bucket: Shape) -> tuple[float, int, int]:
        # A ratio of integer products, so that the comparison of two buckets is exact.
        across, along = bucket.width * picture.height, bucket.height * picture.width
        ratio = max(across, along) / min(across, along)
        return ratio, -bucket.height * bucket.width, bucket.height

    return min(buckets, key=distance)


def compute_covering_shape(picture: Shape, bucket: Shape) -> Shape:
    """Return the picture's shape after scaling it until it just covers the bucket."""
    scale = max(bucket.height / picture.height, bucket.width / picture.width)
    return Shape(
        max(bucket.height, math.floor(picture.height * scale + 0.5)),
        max(bucket.width, math.floor(picture.width * scale + 0.5)),
    )


def is_smaller_than_bucket(picture: Shape, bucket: Shape) -> bool:
    """Return True if a picture is smaller than its bucket in height or width, so that it is
    enlarged.
    """
    return picture.height < bucket.height or picture.width < bucket.width
