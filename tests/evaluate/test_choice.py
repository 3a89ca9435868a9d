"""Which way to sample the sweep speaks for, on figures made by hand."""

from collections.abc import Sequence

import pytest

from t2i.evaluate.generation.best_and_cheapest import choose_best_and_cheapest
from t2i.evaluate.generation.chapters import GenerationResults, build_chapters
from t2i.evaluate.generation.records import BatchRecord, PictureRecord, SweepPoint
from t2i.evaluate.report.chapter import Estimate, Table

SCENES = 48


def run(label: str, passes: int, right: int | Sequence[bool]) -> SweepPoint:
    """Pictures of which the first `right` show all that was said, or those that are told."""
    flags = [n < right for n in range(SCENES)] if isinstance(right, int) else right
    pictures = [
        PictureRecord(
            number=number,
            caption="",
            objects={},
            background="white",
            right={"everything": [flag]},
            right_by_another={},
            features=[],
        )
        for number, flag in enumerate(flags)
    ]
    return SweepPoint(
        label, float(label), [BatchRecord(pictures=pictures, seconds=1.0, passes=passes * SCENES)]
    )


def test_the_cheapest_that_is_not_surely_worse_is_named() -> None:
    # 48 scenes of which the fewer are right also where the more are: 8 lost of 40 are no chance.
    choice = choose_best_and_cheapest(
        [run("5", 10, 32), run("10", 20, 39), run("20", 40, 40)], default_label="20"
    )
    assert choice is not None
    assert (choice.best.label, choice.cheapest.label) == ("20", "10")
    assert choice.differences_to_best["10"].value == pytest.approx(-1 / SCENES)
    assert choice.differences_to_best["5"].high is not None
    assert choice.differences_to_best["5"].high < 0
    assert "20" not in choice.differences_to_best


def test_scenes_are_compared_one_by_one() -> None:
    # As many right, but others of them: what may be chance there is none where all are the same.
    best = [n < 36 for n in range(SCENES)]
    others = [n >= 18 for n in range(SCENES)]  # 30 right, 12 of them where the best is wrong
    same = [n < 30 for n in range(SCENES)]
    for flags, cheapest in ((others, "5"), (same, "20")):
        choice = choose_best_and_cheapest(
            [run("5", 10, flags), run("20", 40, best)], default_label="20"
        )
        assert choice is not None
        assert choice.cheapest.label == cheapest


def test_of_equally_cheap_ones_the_models_own_stays() -> None:
    runs = [run("2", 40, 41), run("3", 40, 40), run("4", 40, 42)]
    for own, cheapest in (("3", "3"), ("2", "2"), ("7", "4")):
        choice = choose_best_and_cheapest(runs, own)
        assert choice is not None
        assert (choice.best.label, choice.cheapest.label) == ("4", cheapest)
    worse = choose_best_and_cheapest([run("3", 40, 20), run("4", 40, 42)], default_label="3")
    assert worse is not None
    assert worse.cheapest.label == "4"


def test_of_equally_good_ones_the_cheapest_is_the_best() -> None:
    choice = choose_best_and_cheapest(
        [run("10", 20, 40), run("5", 10, 40), run("20", 40, 40)], default_label="20"
    )
    assert choice is not None
    assert choice.best is choice.cheapest
    assert choice.best.label == "5"


def test_without_flags_nothing_is_named() -> None:
    assert (
        choose_best_and_cheapest([run("5", 10, []), run("20", 40, [])], default_label="20") is None
    )


def test_the_table_says_what_the_model_does_what_is_best_and_what_is_enough() -> None:
    runs = [run("5", 10, 32), run("10", 20, 39), run("20", 40, 40)]
    chapters = build_chapters(
        GenerationResults({}, {}, {"steps": runs}, {"steps": "20"}, "as usual")
    )
    (chapter,) = [one for one in chapters if one.name == "sampling"]
    tables = {block.name: block for block in chapter.blocks if isinstance(block, Table)}
    ((label, cells),) = tables["sampling_choice"].rows
    assert label == "steps"
    assert cells[:4] == ["20", "20", "10", "20"]
    assert isinstance(cells[4], Estimate)
    assert cells[4].value == pytest.approx(-1 / SCENES)
    heads = list(tables["steps_table"].heads)
    lost = [
        cells[heads.index("everything said, less the best")]
        for _, cells in tables["steps_table"].rows
    ]
    assert [cell.value if isinstance(cell, Estimate) else cell for cell in lost] == [
        pytest.approx(-8 / SCENES),
        pytest.approx(-1 / SCENES),
        None,
    ]
