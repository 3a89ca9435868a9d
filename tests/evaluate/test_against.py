"""A result against an earlier one: what is sure, which way, and what cannot be compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from t2i.errors import ArgumentError
from t2i.evaluate.report.chapter import Chapter, Estimate, Table
from t2i.evaluate.report.comparison import build_comparison_chapter
from t2i.evaluate.report.earlier_result import RENAMED_HEADS, EarlierResult, read_earlier_result
from t2i.evaluate.report.statistics import (
    is_significant,
    mean_with_bootstrap_interval,
    proportion_with_interval,
)
from t2i.evaluate.run import RESULT_VERSION, chapter_to_json

FACTS = {"recogniser": "abc"}
SCENES = {"generation": "same"}


def result(one: int, distance: float, **more: Estimate) -> list[Chapter]:
    """Of 100 samples `one` are right; something is `distance` away, surely."""
    cells = [
        proportion_with_interval([True] * one + [False] * (100 - one)),
        Estimate(distance, distance, distance, 9),
    ]
    table = Table(
        name="main",
        title="Main",
        heads=["right", "distance"],
        rows=[("one object", cells), *[(label, [figure, None]) for label, figure in more.items()]],
        units={"right": "%"},
        better={"right": "higher", "distance": "lower"},
    )
    return [Chapter("generation", "Generation", "", [table])]


def document(chapters: list[Chapter]) -> dict[str, Any]:
    """Of an older form: without digests of its scenes."""
    told: dict[str, Any] = {
        "version": RESULT_VERSION,
        "recogniser": "abc",
        "config": {},
        "model": {"name": "old"},
        "machine": {"date": "2026-11-24"},
        "chapters": {chapter.name: chapter_to_json(chapter) for chapter in chapters},
    }
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]  # as it was


def earlier(chapters: list[Chapter], scenes: dict[str, str] | None = None) -> EarlierResult:
    more = {} if scenes is None else {"scenes": scenes}
    return EarlierResult.model_validate(document(chapters) | more)


def tables(chapter: Chapter) -> list[Table]:
    return [block for block in chapter.blocks if isinstance(block, Table)]


def test_only_what_chance_does_not_explain_is_called_sure() -> None:
    before = earlier(result(50, 3.0))
    sure, changes = tables(build_comparison_chapter(result(90, 3.0), SCENES, before))
    assert [label for label, _ in sure.rows] == ["Main: one object, right"]
    assert sure.rows[0][1] == ["40.0 points (27.8 to 50.6)", "better"]
    assert sure.title == "Beyond their intervals: 1 of 2"
    assert changes.units == {"right": "points"}
    assert tables(build_comparison_chapter(result(52, 3.0), SCENES, before))[0].rows == []


def test_worse_is_said_of_either_way() -> None:
    before = earlier(result(90, 3.0))
    sure = tables(build_comparison_chapter(result(50, 4.0), SCENES, before))[0]
    assert [cells[1] for _, cells in sure.rows] == ["worse", "worse"]
    better = tables(build_comparison_chapter(result(90, 2.0), SCENES, before))[0]
    assert [cells[1] for _, cells in better.rows] == ["better"]


def test_what_only_one_has_is_named_and_the_rest_compared() -> None:
    before = document(result(50, 3.0, gone=Estimate(0.5, 0.4, 0.6, 9)))
    blocks = before["chapters"]["generation"]["blocks"]
    blocks["main"]["heads"].append("old column")
    blocks["old"] = {"kind": "table", "title": "Old", "heads": [], "rows": []}
    before["chapters"]["inspection"] = {"blocks": {}}
    now = result(90, 3.0, new=Estimate(0.5, 0.4, 0.6, 9))
    lone = Table("other", "Other", ["a"], [("row", [Estimate(1.0)])], {}, {})
    extra = Table("extra", "Extra", ["a"], [("row", [Estimate(1.0)])], {}, {})
    now[0] = replace(now[0], blocks=[*now[0].blocks, extra])
    told = build_comparison_chapter(
        [*now, Chapter("editing", "Editing", "", [lone])],
        SCENES | {"editing": "x"},
        EarlierResult.model_validate(before),
    )
    sure, changes, only = tables(told)
    assert len(sure.rows) == 1
    assert [label for label, _ in changes.rows] == ["one object"]
    assert {label: cells[0] for label, cells in only.rows} == {
        "Main: columns 'old column'": "the other",
        "Main: rows 'new'": "this result",
        "Main: rows 'gone'": "the other",
        "Extra": "this result",
        "Old": "the other",
        "chapter 'Editing'": "this result",
        "chapter 'inspection'": "the other",
    }
    assert "of an older form" in told.text


def test_a_column_that_the_other_lacks_leaves_no_empty_one() -> None:
    before = document(result(50, 3.0))
    table = before["chapters"]["generation"]["blocks"]["main"]
    table["heads"] = ["right"]
    del table["rows"][0]["cells"]["distance"]
    _, changes, only = tables(
        build_comparison_chapter(result(50, 3.0), SCENES, EarlierResult.model_validate(before))
    )
    assert changes.heads == ["right"]
    assert only.rows == [("Main: columns 'distance'", ["this result"])]


def test_a_renamed_column_of_an_earlier_result_is_the_same_column() -> None:
    ((old, new),) = RENAMED_HEADS.items()
    before = document(result(50, 3.0))
    table = before["chapters"]["generation"]["blocks"]["main"]
    table["heads"] = [old, "distance"]
    row = table["rows"][0]
    row["cells"] = {old: row["cells"]["right"], "distance": row["cells"]["distance"]}
    now = result(90, 3.0)
    (block,) = (block for block in now[0].blocks if isinstance(block, Table))
    now[0] = replace(now[0], blocks=[replace(block, heads=[new, "distance"])])
    _, changes = tables(build_comparison_chapter(now, SCENES, EarlierResult.model_validate(before)))
    (cells,) = (cells for label, cells in changes.rows if label == "one object")
    assert isinstance(cells[0], Estimate)
    assert cells[0].value == pytest.approx(0.4)


@pytest.mark.parametrize(
    "chapter",
    [
        None,
        3,
        {"blocks": []},
        {"blocks": {"main": {"kind": "table"}}},
        {"blocks": {"main": {"kind": "table", "title": "", "heads": [], "rows": [3]}}},
    ],
)
def test_a_chapter_of_a_wrong_shape_is_one_that_the_other_lacks(chapter: Any) -> None:
    before = document(result(50, 3.0)) | {"chapters": {"generation": chapter}}
    sure, only = tables(
        build_comparison_chapter(result(90, 3.0), SCENES, EarlierResult.model_validate(before))
    )
    assert sure.rows == []
    assert only.rows == [("chapter 'Generation'", ["this result"])]


def test_samples_of_a_wrong_shape_are_no_figures() -> None:
    before = document(result(50, 3.0))
    row = before["chapters"]["generation"]["blocks"]["main"]["rows"][0]
    row["cells"]["right"]["samples"] = "01x"
    sure, only = tables(
        build_comparison_chapter(result(90, 3.0), SCENES, EarlierResult.model_validate(before))
    )
    assert (sure.rows, len(only.rows)) == ([], 1)


def test_the_same_scenes_are_compared_sample_by_sample() -> None:
    def change(scenes: dict[str, str] | None) -> tuple[Chapter, Estimate]:
        told = build_comparison_chapter(result(86, 3.0), SCENES, earlier(result(80, 3.0), scenes))
        cell = tables(told)[1].rows[0][1][0]
        assert isinstance(cell, Estimate)
        return told, cell

    paired, narrow = change(SCENES)
    other, wide = change({"generation": "another"})
    older, as_wide = change(None)
    # Six of a hundred became right and none wrong: chance hardly does that.
    assert is_significant(narrow)
    assert not is_significant(wide)
    assert wide == as_wide
    assert narrow.value == pytest.approx(wide.value)
    assert "compared sample by sample" in paired.text
    assert "Other scenes were used in Generation" in other.text
    assert "of an older form" in older.text


def test_a_result_does_not_differ_from_itself_by_the_digits_that_its_file_lacks() -> None:
    figure = mean_with_bootstrap_interval([10 + number + 4e-6 for number in range(40)])
    assert figure is not None
    same = result(80, 3.0, figure=figure)
    told = build_comparison_chapter(same, SCENES, earlier(same, SCENES))
    assert tables(told)[0].rows == []


def test_the_stored_result_of_the_embedded_model_can_be_compared_with() -> None:
    path = Path(__file__).parents[2] / "benchmarks/results/evaluation-embedded.json"
    facts = {"recogniser": json.loads(path.read_text())["recogniser"]}
    before = read_earlier_result(path, facts, RESULT_VERSION)
    for chapter in ("recogniser", "generation", "sampling", "inspection", "editing"):
        assert before.parse_tables_of_chapter(chapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "is laid out as version 99, expected 1: evaluate that model again"),
        ({"recogniser": "xyz"}, "was judged by another recogniser .xyz, here abc."),
        ({"chapters": None}, r"is no evaluation\.json: chapters: .*Give the evaluation\.json of"),
        ({"model": 3}, r"is no evaluation\.json: model: "),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(document(result(1, 1.0)) | change))
    with pytest.raises(ArgumentError, match=words):
        read_earlier_result(path, FACTS, RESULT_VERSION)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", r"is no evaluation\.json: the file: "),
        (b"# a page", r"is no JSON\. Give the evaluation\.json of another result\."),
        (b"\xff\xfe", r"is no JSON\. Give"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=words):
        read_earlier_result(path, FACTS, RESULT_VERSION)


def test_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"Cannot read .*none\.json: No such file or directory\. Give"
    ):
        read_earlier_result(tmp_path / "none.json", FACTS, RESULT_VERSION)
