"""Compositions: the labelled pictures that the recogniser is trained on."""

import numpy as np

from t2i.scenes.recogniser_data import RecogniserDataset, RecogniserDatasetConfig
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

OBJECTS = ("apple", "cat", "car")


def test_a_composition_is_a_function_of_seed_and_index() -> None:
    one, again = (RecogniserDataset(RecogniserDatasetConfig(seed=4)) for _ in range(2))
    for index in (7, 3):
        here, there = one.read_example(index), again.read_example(index)
        assert here.caption == there.caption
        assert np.array_equal(here.pixels, there.pixels)
        assert here.label_maps is not None
        assert there.label_maps is not None
        assert np.array_equal(here.label_maps, there.label_maps)
    assert one.read_example(3).caption != one.read_example(7).caption
    assert not np.array_equal(
        one.read_example(3).pixels,
        RecogniserDataset(RecogniserDatasetConfig(seed=5)).read_example(3).pixels,
    )


def test_label_maps_name_the_objects_of_the_masks() -> None:
    data = RecogniserDataset(RecogniserDatasetConfig(seed=2, vocabulary=OBJECTS))
    labels = data.labels
    spoiled = 0
    for index in range(40):
        sample = data.read_example(index)
        assert sample.label_maps is not None
        kinds, colours = sample.label_maps
        *names, background = sample.caption.split(", ")
        assert len(names) == len(sample.masks)
        for name, mask in zip(names, sample.masks, strict=True):
            assert (kinds[mask] == labels.objects.index(name)).all()
        behind = labels.unknown_index + 1 + labels.backgrounds.index(background.split(" ")[0])
        there = {labels.objects.index(name) for name in names} | {behind}
        assert set(np.unique(kinds)) - {labels.unknown_index} <= there
        assert (colours[kinds == behind] == 0).all()
        spoiled += labels.unknown_index in kinds
    assert spoiled, "nothing unnameable in forty pictures"


def test_undisturbed_compositions_name_everything() -> None:
    data = RecogniserDataset(RecogniserDatasetConfig(seed=2, vocabulary=OBJECTS, disturbed=False))
    for index in range(20):
        label_maps = data.read_example(index).label_maps
        assert label_maps is not None
        assert (label_maps[0] != data.labels.unknown_index).all()


def test_scenes_are_other_pictures_than_compositions() -> None:
    scene = SceneDataset(SceneDatasetConfig(seed=500, size=32)).render_scene(0)
    assert not np.array_equal(
        scene.pixels,
        RecogniserDataset(RecogniserDatasetConfig(seed=500, size=32)).read_example(0).pixels,
    )
