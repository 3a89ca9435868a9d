"""A result against an earlier one: what is sure, which way, and what cannot be compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from t2i.errors import ArgumentError
from t2i.evaluate.run import VERSION, as_json
from t2i.evaluate.telling.against import against, read_earlier
from t2i.evaluate.telling.chapter import Chapter, Figure, Table
from t2i.evaluate.telling.statistics import share

FACTS = {"recogniser": "abc"}


def result(one: int, distance: float, **more: Figure) -> list[Chapter]:
    """Of 100 samples `one` are right; something is `distance` away, surely."""
    cells = [share([True] * one + [False] * (100 - one)), Figure(distance, distance, distance, 9)]
    table = Table(
        name="main",
        title="Main",
        heads=["right", "distance"],
        rows=[("one object", cells), *[(label, [figure, None]) for label, figure in more.items()]],
        units={"right": "%"},
        better={"right": "higher", "distance": "lower"},
    )
    return [Chapter("generation", "Generation", "", [table])]


def earlier(chapters: list[Chapter]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "recogniser": "abc",
        "config": {},
        "model": {"name": "old"},
        "machine": {"date": "2026-11-24"},
        "chapters": {chapter.name: as_json(chapter) for chapter in chapters},
    }


def tables(chapter: Chapter) -> list[Table]:
    return [block for block in chapter.blocks if isinstance(block, Table)]


def test_only_what_chance_does_not_explain_is_called_sure() -> None:
    before = earlier(result(50, 3.0))
    sure, changes = tables(against(result(90, 3.0), before, same_scenes=True))
    assert [label for label, _ in sure.rows] == ["Main: one object, right"]
    assert sure.rows[0][1] == ["40.0 points (27.8 to 50.6)", "better"]
    assert sure.title == "Beyond their intervals: 1 of 2"
    assert changes.units == {"right": "points"}
    assert tables(against(result(52, 3.0), before, same_scenes=True))[0].rows == []


def test_worse_is_said_of_either_way() -> None:
    before = earlier(result(90, 3.0))
    sure = tables(against(result(50, 4.0), before, same_scenes=True))[0]
    assert [cells[1] for _, cells in sure.rows] == ["worse", "worse"]
    better = tables(against(result(90, 2.0), before, same_scenes=True))[0]
    assert [cells[1] for _, cells in better.rows] == ["better"]


def test_rows_and_tables_that_only_one_has_are_left_out() -> None:
    before = earlier(result(50, 3.0, gone=Figure(0.5, 0.4, 0.6, 9)))
    now = result(50, 3.0, new=Figure(0.5, 0.4, 0.6, 9))
    lone = Table("other", "Other", ["a"], [("row", [Figure(1.0)])], {}, {})
    chapter = against([*now, Chapter("editing", "", "", [lone])], before, same_scenes=False)
    _, changes = tables(chapter)
    assert [label for label, _ in changes.rows] == ["one object"]
    assert "on other scenes" in chapter.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "its layout is 99, expected 1"),
        ({"recogniser": "xyz"}, "was judged by another recogniser .xyz, here abc."),
        ({"chapters": None, "model": 3}, "Cannot compare with"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(earlier(result(1, 1.0)) | change))
    with pytest.raises(ArgumentError, match=words):
        read_earlier(path, FACTS, VERSION)


def test_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="Cannot compare with .*none.json"):
        read_earlier(tmp_path / "none.json", FACTS, VERSION)
