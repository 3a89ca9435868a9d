"""Hints: places by the recogniser, words by the judge, with the same noise in all conditions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from PIL import Image

from t2i.controls.control import Control
from t2i.errors import ArgumentError
from t2i.evaluate.hints.chapters import LESS_HEAD, PLACE_HEAD, build_hint_chapter
from t2i.evaluate.hints.conditions import (
    COMPOSED,
    HINT,
    NO_HINT,
    OTHER_HINT,
    REGIONS,
    HintsConfig,
)
from t2i.evaluate.hints.part import HintsPart, measure_place_iou
from t2i.evaluate.hints.records import HintedPictureRecord
from t2i.evaluate.report.chapter import Chapter, Estimate, Gallery, Table
from t2i.evaluate.scene_splits import SceneSplitConfig
from t2i.scenes.recognised_objects import RecognisedObject, Recognition
from tests.evaluate.tiny_context import tiny_context
from tests.tiny import tiny_unet
from train.setup.control_networks import build_fresh_controlnet

CONFIG = HintsConfig(
    scenes=SceneSplitConfig(seed=5, count=5),
    scales=(0.0, 1.0),
    modes=("balanced", "prompt", "guess"),
    windows=((0.0, 0.5), (0.0, 1.0)),
    batch=3,
)
LABELS = [
    COMPOSED, NO_HINT, HINT, "hint, scale 0", "hint, mode prompt", "hint, mode guess",
    "hint, steps 0 to 0.5", OTHER_HINT, REGIONS,
]  # fmt: skip


def random_controlnet() -> ControlNetModel:
    """A ControlNet that adds something, for the tiny model."""
    network = build_fresh_controlnet(tiny_unet(), factor=4).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return network


def part_of(folder: Path, network: Any, config: HintsConfig = CONFIG) -> HintsPart:
    return HintsPart(config, replace(tiny_context(folder), control_network=network))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hints")


@pytest.fixture(scope="module")
def part(folder: Path) -> HintsPart:
    return part_of(folder, random_controlnet())


@pytest.fixture(scope="module")
def records(part: HintsPart) -> dict[str, Any]:
    return {unit: json.loads(json.dumps(part.measure_unit(unit))) for unit in part.list_unit_keys()}


@pytest.fixture(scope="module")
def chapter(part: HintsPart, records: dict[str, Any]) -> Chapter:
    (found,) = part.build_chapters(records)
    return found


def pictures_of(folder: Path, part: HintsPart, label: str) -> list[np.ndarray]:
    key = next(one.key for one in part.conditions if one.label == label)
    return [np.asarray(Image.open(folder / f"hints/{key}/{number}.png")) for number in range(5)]


def rows(chapter: Chapter) -> dict[str, dict[str, Any]]:
    (table,) = [block for block in chapter.blocks if isinstance(block, Table)]
    return {label: dict(zip(table.heads, cells, strict=True)) for label, cells in table.rows}


def test_every_setting_is_a_condition_once(part: HintsPart) -> None:
    assert [condition.label for condition in part.conditions] == LABELS
    keys = part.list_unit_keys()
    assert len(set(keys)) == len(keys) == 2 * len(LABELS)


def test_the_conditions_draw_what_they_say(
    folder: Path, part: HintsPart, records: dict[str, Any]
) -> None:
    drawn = {label: pictures_of(folder, part, label) for label in LABELS}
    for number, picture in enumerate(drawn[COMPOSED]):
        assert np.array_equal(picture, part.scenes.render_scene(number).pixels)

    def equal(one: str, other: str) -> bool:
        return all(map(np.array_equal, drawn[one], drawn[other]))

    assert equal(NO_HINT, "hint, scale 0")
    varied = [HINT, "hint, mode prompt", "hint, mode guess", "hint, steps 0 to 0.5", OTHER_HINT]
    for number, label in enumerate(varied):
        assert not any(equal(label, other) for other in [NO_HINT, *varied[:number]])
    assert not equal(REGIONS, NO_HINT)


def test_another_scenes_hint_is_that_of_the_next_one(
    part: HintsPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Control] = []

    def sample(_numbers: Any, scenes: Any, controls: list[Control]) -> list[Image.Image]:
        given.extend(controls)
        return [Image.new("RGB", (32, 32))] * len(scenes)

    monkeypatch.setattr(part, "_sample", sample)
    for condition in ("hint", "other"):
        part.measure_unit(f"{condition},1,balanced,0-1/3")
    own, other = ([np.asarray(hint) for hint in control.picture] for control in given)
    hints = [part._draw_hint(part.scenes.render_scene(number)) for number in range(5)]
    assert [np.array_equal(own[i], hints[3 + i]) for i in range(2)] == [True, True]
    assert [np.array_equal(other[i], hints[(4 + i) % 5]) for i in range(2)] == [True, True]


def test_the_noise_of_a_scene_does_not_depend_on_its_unit(
    tmp_path: Path, folder: Path, part: HintsPart
) -> None:
    alone = part_of(tmp_path, part.context.control_network, CONFIG.model_copy(update={"batch": 5}))
    unit = "hint,1,balanced,0-1/0"
    alone.measure_unit(unit)
    one = pictures_of(tmp_path, alone, HINT)[4]
    part.measure_unit("hint,1,balanced,0-1/3")
    other = np.asarray(Image.open(folder / "hints/hint,1,balanced,0-1/4.png"))
    assert np.abs(one.astype(int) - other).max() <= 1


def test_iou_is_of_the_objects_place_and_0_for_one_that_is_not_found() -> None:
    mask, found = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    mask[:4], found[2:6] = True, True
    cat = RecognisedObject("cat", 0.5, (0.5, 0.5), "own", found)
    nothing = np.zeros((1, 1, 1), np.float32)
    seen = Recognition({"cat": cat}, "white", 0.0, nothing[0, 0], nothing)
    assert measure_place_iou("cat", mask, seen) == pytest.approx(16 / 48)
    assert measure_place_iou("cat", found, seen) == 1.0
    assert measure_place_iou("dog", mask, seen) == 0.0


def test_the_table_has_places_and_words_of_every_condition(
    chapter: Chapter, records: dict[str, Any], part: HintsPart
) -> None:
    found = rows(chapter)
    assert [*found] == LABELS
    ious = [
        iou
        for key, unit in records.items()
        if key.startswith("hint,1,balanced,0-1/")
        for picture in unit["pictures"]
        for iou in picture["ious"].values()
    ]
    assert found[HINT][PLACE_HEAD].value == pytest.approx(np.mean(ious))
    assert found[HINT][PLACE_HEAD].count == len(ious)
    assert found[HINT]["everything said"].count == 5
    assert found[NO_HINT][LESS_HEAD] is None
    assert found["hint, scale 0"][LESS_HEAD].value == 0
    (gallery,) = [block for block in chapter.blocks if isinstance(block, Gallery)]
    assert len(gallery.pictures) == 5 * (1 + len(LABELS))
    assert gallery.columns == 1 + len(LABELS)


def test_words_that_are_lost_are_told_against_no_hint() -> None:
    def picture(number: int, right: bool, iou: float) -> HintedPictureRecord:
        flags = {"one": [right], "recolour": [right], "natural": [True], "everything": [right]}
        return HintedPictureRecord(
            number=number, caption="a cat", ious={"cat": iou}, right=flags, file="a.png"
        )

    pictures = {
        NO_HINT: [picture(n, True, 0.1) for n in range(4)],
        HINT: [picture(n, n > 0, 0.9) for n in range(4)],
    }
    found = rows(build_hint_chapter(pictures, [("hint.png", "a cat")], "2 steps", "segments"))
    assert found[HINT][LESS_HEAD].value == pytest.approx(-0.25)
    assert found[HINT][PLACE_HEAD] == Estimate(0.9, 0.9, 0.9, 4)
    assert found[HINT]["colour"].value == pytest.approx(7 / 8)
    assert found[HINT]["background"] is None


def test_an_adapter_has_no_guess_mode(tmp_path: Path) -> None:
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=4,
                         adapter_type="full_adapter").eval()  # fmt: skip
    part = part_of(tmp_path, adapter)
    assert [one.label for one in part.conditions] == [
        label for label in LABELS if "guess" not in label
    ]
    assert part.measure_unit("hint,1,prompt,0-1/3")


def test_a_control_is_needed_that_fits(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="measures a control, and none is named"):
        HintsPart(CONFIG, tiny_context(tmp_path))
    other = build_fresh_controlnet(tiny_unet(cross_attention_dim=16), factor=4)
    with pytest.raises(ArgumentError, match="Control 0 is a ControlNet for text embeddings"):
        part_of(tmp_path, other)
