"""Generation: what is drawn is a function of its unit alone, and every picture counts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from t2i.evaluate.generation.chapters import (
    GenerationResults,
    build_chapters,
    build_generation_chapter,
)
from t2i.evaluate.generation.feature_distance import compute_frechet_distance
from t2i.evaluate.generation.part import GenerationConfig, GenerationPart
from t2i.evaluate.generation.records import BatchRecord, PictureRecord, SweepPoint
from t2i.evaluate.report.chapter import Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.scene_splits import SceneSplitConfig
from tests.evaluate.tiny_context import tiny_context

T = TypeVar("T")
CONFIG = GenerationConfig(
    seen=SceneSplitConfig(seed=1, count=5),
    held_out=SceneSplitConfig(seed=1, count=4),
    sweep=SceneSplitConfig(seed=2, count=4),
    guidance_scales=(1.0, 3.0),
    steps=(1,),
    samplers=("euler",),
    methods=("apg",),
    batch=4,
)


def measured(part: GenerationPart, unit: str) -> dict[str, Any]:
    """A record as JSON gives it back."""
    record: dict[str, Any] = json.loads(json.dumps(part.measure_unit(unit)))
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def part(folder: Path) -> GenerationPart:
    return GenerationPart(CONFIG, tiny_context(folder))


@pytest.fixture(scope="module")
def records(part: GenerationPart) -> dict[str, Any]:
    """Records of all units, measured in their order."""
    return {unit: measured(part, unit) for unit in part.list_unit_keys()}


def test_units_are_batches_of_each_split_and_way_and_no_way_is_drawn_twice(
    part: GenerationPart,
) -> None:
    assert part.list_unit_keys() == [
        "seen/real/0-3",
        "seen/real/4-4",
        "seen/drawn/steps=2,guidance=3/0-3",
        "seen/drawn/steps=2,guidance=3/4-4",
        "held_out/real/0-3",
        "held_out/drawn/steps=2,guidance=3/0-3",
        "sweep/drawn/steps=2,guidance=1/0-3",
        "sweep/drawn/steps=2,guidance=3/0-3",
        "sweep/drawn/steps=1,guidance=3/0-3",
        "sweep/drawn/steps=2,guidance=3,sampler=euler/0-3",
        "sweep/drawn/steps=2,guidance=3,method=apg/0-3",
    ]


def test_a_unit_measures_the_same_whatever_was_done_before(
    tmp_path: Path, records: dict[str, Any]
) -> None:
    unit = "sweep/drawn/steps=2,guidance=3/0-3"
    fresh = GenerationPart(CONFIG, tiny_context(tmp_path))
    own = fresh.context.pipe.scheduler
    measured(fresh, "sweep/drawn/steps=2,guidance=3,sampler=euler/0-3")
    assert fresh.context.pipe.scheduler is own
    torch.manual_seed(123)
    pictures = records[unit]["pictures"]
    assert measured(fresh, unit)["pictures"] == pictures
    others = records["sweep/drawn/steps=2,guidance=1/0-3"]["pictures"]
    assert [p["features"] for p in others] != [p["features"] for p in pictures]


@pytest.mark.parametrize(
    ("way", "passes"),
    [
        ("drawn/steps=2,guidance=3", 4),
        ("drawn/steps=2,guidance=1", 2),
        ("drawn/steps=1,guidance=3", 2),
    ],
)
def test_a_picture_costs_the_rows_that_the_denoiser_is_called_with(
    part: GenerationPart, records: dict[str, Any], way: str, passes: int
) -> None:
    batch = BatchRecord.model_validate(records[f"sweep/{way}/0-3"])
    assert SweepPoint("", 0.0, [batch]).denoiser_rows_per_picture == passes
    assert not part.context.pipe.unet._forward_pre_hooks
    assert records["seen/real/0-3"]["passes"] == 0


def test_flags_are_as_many_whatever_is_in_the_picture() -> None:
    # "placed" is asked where all objects are there alone: elsewhere it keeps its place.
    run = run_of(
        picture(0, {"relation": [True], "placed": [True]}),
        picture(1, {"relation": [False], "placed": []}),
        picture(2, {"one": [True]}),
    )
    assert run.list_criterion_results("placed") == [True, None]
    assert run.list_criterion_results("relation") == [True, False]


def test_a_picture_is_the_one_its_own_seed_draws_alone(
    tmp_path: Path, folder: Path, records: dict[str, Any]
) -> None:
    way = "drawn/steps=2,guidance=3"
    part = GenerationPart(CONFIG.model_copy(update={"batch": 1}), tiny_context(tmp_path))
    found = {}
    for name, kept, fact in (
        ("batch", folder, records[f"seen/{way}/0-3"]["pictures"][2]),
        ("alone", tmp_path, measured(part, f"seen/{way}/2-2")["pictures"][-1]),
    ):
        (path,) = (kept / "generation" / "seen").glob("0002-*.png")
        found[name] = fact["caption"], np.asarray(Image.open(path)).astype(int)
    assert found["batch"][0] == found["alone"][0]
    one, other = found["batch"][1], found["alone"][1]
    assert abs(one - other).max() <= 1  # a batch may round the last bit of a float differently


def test_chapters_tell_of_all_pictures_and_of_every_way(
    part: GenerationPart, records: dict[str, Any]
) -> None:
    chapters = {chapter.name: chapter for chapter in part.build_chapters(records)}
    assert [*chapters] == ["recogniser", "generation", "sampling", "pictures"]
    table = block(chapters["generation"], "generation", Table)
    assert table.heads == ["seen", "held out", "held out - seen"]
    assert counts(table, "everything said") == [5, 4, 4]
    assert counts(block(chapters["generation"], "control", Table), "everything said") == [9, 9, 9]
    assert counts(block(chapters["recogniser"], "recogniser", Table), "nothing else") == [5, 4]

    plot = block(chapters["sampling"], "guidance", Plot)
    assert [at for at, _ in plot.lines["everything said"]] == [1.0, 3.0]
    samplers = block(chapters["sampling"], "samplers_table", Table)
    assert [label for label, _ in samplers.rows] == ["the model's own", "euler"]
    worst = block(chapters["pictures"], "worst_seen", Gallery)
    assert len(worst.pictures) == 2


def test_a_model_with_no_held_out_combination_is_judged_without(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    one_sweep = CONFIG.model_copy(update={"steps": (), "samplers": (), "methods": ()})
    few = replace(context, objects=("apple", "cat", "dog"), max_objects=1)
    part = GenerationPart(one_sweep, few)
    assert {unit.split("/")[0] for unit in part.list_unit_keys()} == {"seen", "sweep"}
    records = {unit: measured(part, unit) for unit in part.list_unit_keys()}
    table = block(part.build_chapters(records)[1], "generation", Table)
    assert table.heads == ["seen"]


def picture(number: int, right: dict[str, list[bool]], **facts: Any) -> PictureRecord:
    settings: dict[str, Any] = {
        "caption": f"scene {number}",
        "objects": {},
        "background": "white",
        "right_by_another": {},
        "features": [float(number), float(number % 3)],
        "file": f"{number}.png",
    }
    return PictureRecord(number=number, right=right, **settings | facts)


def run_of(*pictures: PictureRecord, label: str = "") -> SweepPoint:
    return SweepPoint(label, 0.0, [BatchRecord(pictures=list(pictures), seconds=2.0, passes=0)])


def test_worst_and_best_are_ranked_by_what_is_wrong_then_by_number() -> None:
    flags = [[True, True], [False, False], [True, False], [False, True], [True, True], [True, True]]
    pictures = [picture(n, {"each": f, "both": [all(f)]}) for n, f in enumerate(flags)]
    results = GenerationResults(
        {"seen": run_of(*pictures)}, {"seen": run_of(*pictures)}, {}, {}, "as usual"
    )
    galleries = {b.name: b for b in build_chapters(results)[-1].blocks if isinstance(b, Gallery)}
    assert [file for file, _ in galleries["worst_seen"].pictures] == ["1.png", "2.png", "3.png"]
    assert [file for file, _ in galleries["best_seen"].pictures] == ["0.png", "4.png", "5.png"]
    assert galleries["worst_seen"].pictures[0][1] == "scene 1 [object missing]"
    assert galleries["best_seen"].pictures[0][1] == "scene 0"
    assert "3 of 6 without a mistake" in galleries["worst_seen"].title


def test_the_control_pools_both_splits_and_stands_beside_real_scenes() -> None:
    drawn = [picture(n, {"one": [True]}, right_by_another={"one": [n == 0]}) for n in range(4)]
    real = [picture(n, {"one": [True]}, right_by_another={"one": [False]}) for n in range(4)]
    results = GenerationResults(
        {"seen": run_of(*real), "held_out": run_of(*real)},
        {"seen": run_of(*drawn), "held_out": run_of(*drawn[1:])},
        {},
        {},
        "as usual",
    )
    table = block(build_generation_chapter(results), "control", Table)
    ((label, cells),) = table.rows
    figures = [cell for cell in cells if isinstance(cell, Estimate)]
    assert label == "one object"
    assert [(round(f.value, 3), f.count) for f in figures] == [(1.0, 7), (0.143, 7), (0.0, 8)]


def test_the_scenes_distance_is_frechets_of_two_normals() -> None:
    # Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, in closed form.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 3))
    noise = (noise - noise.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    one, other = noise * [1.0, 2.0, 0.5], noise * [1.5, 2.0, 1.0] + [1.0, 0.0, -2.0]
    assert compute_frechet_distance(one.tolist(), other.tolist()) == pytest.approx(5.5, abs=1e-6)
    assert compute_frechet_distance(one.tolist(), one.tolist()) == pytest.approx(0.0, abs=1e-6)


def block(chapter: Chapter, name: str, kind: type[T]) -> T:
    (found,) = (block for block in chapter.blocks if block.name == name)
    assert isinstance(found, kind)
    return found


def counts(table: Table, label: str) -> list[int | None]:
    (cells,) = (cells for title, cells in table.rows if title == label)
    return [cell.count if isinstance(cell, Estimate) else None for cell in cells]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samplers": ("bogus",)}, "Unknown sampler 'bogus'"),
        ({"methods": ("bogus",)}, "bogus"),
        ({"methods": ("cfg:stop=abc",)}, "stop"),
        ({"steps": (0,)}, "greater than or equal to 1"),
        ({"guidance_scales": (float("nan"),)}, "finite"),
        ({"guidance_scales": (-1.0,)}, "greater than or equal to 0"),
    ],
)
def test_ways_to_sample_are_checked_before_anything_is_drawn(
    wrong: dict[str, Any], message: str
) -> None:
    split = SceneSplitConfig(seed=1, count=1)
    with pytest.raises(ValidationError, match=message):
        GenerationConfig(seen=split, held_out=split, sweep=split, **wrong)
