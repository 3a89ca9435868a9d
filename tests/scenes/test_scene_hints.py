"""Exact hints of scenes: drawn from the masks, in colours that tell the objects apart."""

from typing import get_args

import numpy as np
import pytest

from t2i.errors import ArgumentError
from t2i.scenes.hints import (
    HINT_DRAWERS,
    SceneHintKind,
    compute_segment_palette_of_vocabulary,
    draw_scene_hint,
    get_segment_colour,
)
from t2i.scenes.layout import compute_mask_bounding_box
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig


def scenes(kind: SceneHintKind | None, **settings: object) -> SceneDataset:
    config = {"size": 64, "alone": 0.0, "hint": kind, **settings}
    return SceneDataset(SceneDatasetConfig.model_validate(config))


def test_segments_are_the_masks_in_the_colours_of_the_names() -> None:
    found = scenes("segments")
    for index in range(6):
        scene, hint = found.render_scene(index), found.read_example(index).hint
        assert hint is not None
        for placed in scene.objects:
            colour = np.array(get_segment_colour(placed.name))
            assert np.array_equal((hint == colour).all(axis=-1), placed.mask)
        covered = np.any([placed.mask for placed in scene.objects], axis=0)
        assert not hint[~covered].any()


def test_outlines_are_the_outermost_pixels_of_the_masks() -> None:
    found = scenes("outlines")
    scene, hint = found.render_scene(1), found.read_example(1).hint
    assert hint is not None
    assert set(np.unique(hint)) == {0, 255}
    white = hint[..., 0] == 255
    covered = np.any([placed.mask for placed in scene.objects], axis=0)
    assert not white[~covered].any()
    for placed in scene.objects:
        left, top, right, bottom = placed.box
        edges = (np.s_[top, :], np.s_[bottom - 1, :], np.s_[:, left], np.s_[:, right - 1])
        assert all((white & placed.mask)[edge].any() for edge in edges)
        assert (white & placed.mask).sum() < 0.5 * placed.mask.sum()


def test_boxes_hold_the_objects_and_the_smaller_is_in_front() -> None:
    large, small = (np.zeros((20, 20), dtype=np.bool_) for _ in range(2))
    large[2:18, 3:15] = True
    small[8:12, 10:19] = True
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    names = ["cat", "tree"]
    for order in (slice(None), slice(None, None, -1)):
        hint = draw_scene_hint("boxes", pixels, names[order], [large, small][order])
        boxes = [
            (hint == np.array(get_segment_colour(name))).all(axis=-1) for name in ("cat", "tree")
        ]
        assert compute_mask_bounding_box(boxes[0]) == (3, 2, 15, 18)
        assert compute_mask_bounding_box(boxes[1]) == (10, 8, 19, 12)
        assert boxes[1].sum() == 4 * 9


def test_colour_blocks_are_means_of_the_picture() -> None:
    found = scenes("colours")
    scene, hint = found.render_scene(2), found.read_example(2).hint
    assert hint is not None
    blocks = scene.pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    assert np.abs(hint.reshape(8, 8, 8, 8, 3) - blocks[:, None, :, None]).max() <= 1


def test_the_hint_changes_nothing_else_of_a_scene() -> None:
    plain, hinted = scenes(None).read_example(3), scenes("boxes").read_example(3)
    assert plain.hint is None
    assert plain.caption == hinted.caption
    assert np.array_equal(plain.pixels, hinted.pixels)


def test_every_object_has_a_colour_of_its_own_far_from_the_others_and_from_black() -> None:
    colours = np.array([(0, 0, 0), *compute_segment_palette_of_vocabulary().values()], dtype=float)
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert distance[~np.eye(len(colours), dtype=bool)].min() > 60
    with pytest.raises(ArgumentError, match=r"No object is called 'catt'.*cat"):
        get_segment_colour("catt")


def test_every_kind_can_be_asked_for() -> None:
    assert set(get_args(SceneHintKind)) == set(HINT_DRAWERS)


def test_a_layout_has_a_rough_area_for_each_object() -> None:
    found, exact = scenes("layouts"), scenes("segments")
    same, all_objects = 0, 0
    for index in range(40):
        scene, hint = found.render_scene(index), found.read_example(index).hint
        segments = exact.read_example(index).hint
        assert hint is not None
        assert segments is not None
        for placed in scene.objects:
            colour = np.array(get_segment_colour(placed.name))
            area, whole = ((one == colour).all(axis=-1) for one in (hint, segments))
            left, top, right, bottom = placed.box
            outside = area.copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()
            assert (area & whole).sum() > 0.5 * whole.sum()
            same += np.array_equal(area, whole)
            all_objects += 1
        assert np.array_equal(hint, found.read_example(index, 5).hint)
    assert 0.05 < same / all_objects < 0.5
