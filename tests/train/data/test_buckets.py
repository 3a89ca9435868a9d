"""Every picture has a bucket, and the bucket is the right one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.buckets import (
    Shape,
    compute_covering_shape,
    find_nearest_bucket,
    is_smaller_than_bucket,
    list_bucket_shapes,
)

SIDES = st.integers(1, 20_000)
SHAPES = st.builds(Shape, SIDES, SIDES)
GRIDS = st.tuples(st.integers(1, 16), st.sampled_from([8, 16, 64])).map(
    lambda pair: (pair[0] * pair[1], pair[1])
)


@given(grid=GRIDS, max_aspect=st.floats(1, 8))
@settings(deadline=None)
def test_buckets_are_multiples_within_area_and_proportions(
    grid: tuple[int, int], max_aspect: float
) -> None:
    size, step = grid
    buckets = list_bucket_shapes(size, step, max_aspect)
    assert Shape(size, size) in buckets
    for height, width in buckets:
        assert height % step == width % step == 0
        assert 0 < height * width <= size * size
        assert max(height, width) <= max_aspect * min(height, width)
        assert Shape(width, height) in buckets


@given(grid=GRIDS)
@settings(deadline=None)
def test_a_bucket_can_grow_in_one_direction_at_most(grid: tuple[int, int]) -> None:
    size, step = grid
    for height, width in list_bucket_shapes(size, step, 4.0):
        assert max((height + step) * width, height * (width + step)) > size * size


@given(picture=SHAPES, grid=GRIDS)
@settings(deadline=None)
def test_the_nearest_bucket_is_the_nearest(picture: Shape, grid: tuple[int, int]) -> None:
    buckets = list_bucket_shapes(*grid, 4.0)
    chosen = find_nearest_bucket(picture, buckets)
    aspect = math.log(picture.width / picture.height)

    def away(bucket: Shape) -> float:
        return abs(aspect - math.log(bucket.width / bucket.height))

    assert away(chosen) <= min(map(away, buckets)) + 1e-12
    equal = [bucket for bucket in buckets if math.isclose(away(bucket), away(chosen))]
    assert chosen.height * chosen.width == max(b.height * b.width for b in equal)


@given(picture=SHAPES, grid=GRIDS)
@settings(deadline=None)
def test_a_picture_is_scaled_until_it_just_covers_its_bucket(
    picture: Shape, grid: tuple[int, int]
) -> None:
    bucket = find_nearest_bucket(picture, list_bucket_shapes(*grid, 4.0))
    covered = compute_covering_shape(picture, bucket)
    assert covered.height >= bucket.height
    assert covered.width >= bucket.width
    assert covered.height == bucket.height or covered.width == bucket.width
    if covered.height == bucket.height:
        exact = picture.width * bucket.height / picture.height
        assert abs(covered.width - max(exact, bucket.width)) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        (Shape(100, 100), Shape(512, 512)),
        (Shape(200, 300), Shape(384, 640)),
        (Shape(300, 200), Shape(640, 384)),
        (Shape(90, 160), Shape(384, 640)),
        (Shape(10, 4000), Shape(256, 1024)),
    ],
)
def test_known_pictures_go_where_one_expects(picture: Shape, bucket: Shape) -> None:
    assert find_nearest_bucket(picture, list_bucket_shapes(512, 64, 4.0)) == bucket


def test_a_picture_smaller_than_its_bucket_is_enlarged() -> None:
    assert is_smaller_than_bucket(Shape(40, 200), Shape(64, 64))
    assert not is_smaller_than_bucket(Shape(64, 64), Shape(64, 64))
