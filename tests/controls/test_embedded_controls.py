"""Control networks that come with the package: found by name, and obeyed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2i
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.denoiser.loading.model_location import (
    ASSETS,
    EMBEDDED_CONTROLS,
    locate_control_network,
)
from t2i.errors import ModelError
from t2i.evaluate.hints.part import measure_place_iou
from t2i.scenes.hints import draw_segments
from t2i.scenes.recognised_segments import segment_recognised_objects
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.tiny import tiny_unet

MAX_SHIPPED_BYTES = 64_000_000
OBJECTS = ("apple", "banana", "cat", "dog", "fish", "car", "house", "star")


@pytest.fixture(scope="module")
def scenes() -> SceneDataset:
    """Of a seed that neither the training nor the suite has."""
    return SceneDataset(
        SceneDatasetConfig(
            size=128, seed=4321, alone=0.0, repainted=0.0, max_objects=2, vocabulary=OBJECTS
        )
    )


@pytest.fixture(scope="module")
def judge() -> Recogniser:
    return Recogniser.load()


def test_a_path_is_itself_and_a_name_is_a_folder_of_the_package() -> None:
    assert locate_control_network("nets/canny") == Path("nets/canny")
    assert locate_control_network("./segments") == Path("segments")
    for name, folder in EMBEDDED_CONTROLS.items():
        assert locate_control_network(name) == folder
        assert locate_control_network(Path(name)) == Path(name)  # pathlib drops "./"
        assert (folder / "config.json").is_file()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("segment", "No such control network: segment. .* Did you mean 'segments'"),
        (Path("nets/canny"), "No such control network: nets/canny"),
        ("", "Got the control network '', expected a name such as 'segments'"),
        (None, "Got the control network None, expected a name"),
    ],
)
def test_what_is_no_network_is_refused_by_what_was_given(given: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_control_network(given, tiny_unet())


def test_what_is_shipped_is_small() -> None:
    sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(sizes) < MAX_SHIPPED_BYTES


def test_the_control_segments_puts_objects_where_the_layout_has_them(
    scenes: SceneDataset, judge: Recogniser
) -> None:
    pipe = t2i.load("embedded")
    network = load_control_network("segments", pipe.unet)
    found: dict[bool, list[float]] = {True: [], False: []}
    for index in range(4):
        scene = scenes.render_scene(index)
        names, masks = zip(*((one.name, one.mask) for one in scene.objects), strict=True)
        layout = Image.fromarray(draw_segments(scene.pixels, names, masks))
        for controlled, ious in found.items():
            picture = draw(
                pipe, f"a {' and a '.join(names)}", [Control(network, layout)] * controlled
            )
            (seen,) = judge.recognise([picture], OBJECTS)
            ious += [measure_place_iou(*pair, seen) for pair in zip(names, masks, strict=True)]
    assert np.mean(found[True]) > 0.7
    assert np.mean(found[False]) < 0.5


def draw(pipe: Any, prompt: str, controls: list[Control]) -> Image.Image:
    generator = torch.Generator().manual_seed(5)
    picture: Image.Image = pipe(prompt, controls=controls, generator=generator).images[0]
    return picture


def test_segments_of_a_picture_are_those_of_its_scene(
    scenes: SceneDataset, judge: Recogniser
) -> None:
    for index in range(3):
        scene = scenes.render_scene(index)
        exact = draw_segments(
            scene.pixels, [one.name for one in scene.objects], [one.mask for one in scene.objects]
        )
        found = segment_recognised_objects(judge, scene.pixels, OBJECTS)
        assert (found == exact).all(axis=-1).mean() > 0.9
