"""Soft-TIFA from the recogniser: atoms of a caption, and their two means."""

from dataclasses import replace

import pytest
import torch

from t2i.evaluate.generation.chapters import GenerationResults, build_soft_tifa_table
from t2i.evaluate.generation.judge import CaptionStatement
from t2i.evaluate.generation.records import BatchRecord, PictureRecord, SweepPoint
from t2i.evaluate.generation.soft_tifa import (
    MIN_ATOM_SCORE,
    compute_arithmetic_mean,
    compute_geometric_mean,
    score_atoms,
)
from t2i.evaluate.report.chapter import Estimate
from t2i.scenes.recognised_objects import OWN_COLOUR
from tests.evaluate.recognitions import at, seen_of
from tests.evaluate.tiny_context import OBJECTS, tiny_recogniser
from tests.tiny import picture

STATEMENT = CaptionStatement(
    text="a blue apple to the left of a yellow cat on a white background",
    objects=("apple", "cat"),
    colours=(("apple", "blue", True), ("cat", "mottled", False)),
    relations=(("apple", "left", "cat"),),
    background="white",
)


def test_each_statement_of_a_caption_is_an_atom() -> None:
    seen = seen_of("white", apple=at(0.2, 0.5, "blue"), cat=at(0.8, 0.5))
    colours = {
        "apple": {"blue": 0.75, OWN_COLOUR: 0.25},
        "cat": {"blue": 0.375, OWN_COLOUR: 0.625},
    }
    seen = replace(
        seen,
        objects={
            name: replace(one, colour_scores=colours[name]) for name, one in seen.objects.items()
        },
        object_scores={"apple": 0.9, "cat": 0.8, "dog": 0.1},
        background_scores={"white": 0.5, "teal": 0.5},
    )
    assert score_atoms(STATEMENT, seen) == [0.9, 0.8, 0.75, 0.625, 1.0, 0.5]
    # without the apple: its probability stays, its colour and the relation are wrong
    less = replace(seen, objects={"cat": seen.objects["cat"]})
    assert score_atoms(STATEMENT, less) == [0.9, 0.8, 0.0, 0.625, 0.0, 0.5]


def test_the_means_are_those_of_numbers_known_by_heart() -> None:
    assert compute_arithmetic_mean([1.0, 0.25]) == 0.625
    assert compute_geometric_mean([1.0, 0.25]) == pytest.approx(0.5)
    assert compute_geometric_mean([0.0]) == pytest.approx(MIN_ATOM_SCORE)
    assert compute_geometric_mean([0.3, 0.3, 0.3]) == pytest.approx(0.3)


def test_the_recogniser_gives_probabilities_of_everything() -> None:
    torch.manual_seed(0)
    (seen,) = tiny_recogniser().recognise([picture(32)])
    assert seen.object_scores.keys() == set(OBJECTS)
    assert all(0 < score < 1 for score in seen.object_scores.values())
    assert sum(seen.background_scores.values()) == pytest.approx(1, abs=1e-5)
    assert max(seen.background_scores, key=seen.background_scores.__getitem__) == seen.background
    for found in seen.objects.values():
        assert sum(found.colour_scores.values()) == pytest.approx(1, abs=1e-4)
        best = max(found.colour_scores, key=found.colour_scores.__getitem__)
        assert best == found.colour


def record_of(number: int, atoms: list[float] | None) -> PictureRecord:
    return PictureRecord(
        number=number,
        caption="a cat",
        objects={},
        background="white",
        right={},
        right_by_another={},
        features=[0.0],
        atoms=atoms,
    )


def results_of(*atoms: list[float] | None) -> GenerationResults:
    pictures = [record_of(number, one) for number, one in enumerate(atoms)]
    run = SweepPoint("", 0.0, [BatchRecord(pictures=pictures, seconds=1.0, passes=1)])
    return GenerationResults({"seen": run}, {"seen": run}, {}, {}, "")


def test_the_table_has_both_means_by_number_of_atoms() -> None:
    (table,) = build_soft_tifa_table(results_of([1.0], [0.5], [1.0, 0.25]))
    values = {
        label: round(cells[1].value, 4)
        for label, cells in table.rows
        if isinstance(cells[1], Estimate)
    }
    assert values == {
        "arithmetic mean": round((1 + 0.5 + 0.625) / 3, 4),
        "arithmetic mean, 1 atom": 0.75,
        "arithmetic mean, 2 atoms": 0.625,
        "geometric mean": round((1 + 0.5 + 0.5) / 3, 4),
        "geometric mean, 1 atom": 0.75,
        "geometric mean, 2 atoms": 0.5,
    }
    assert list(table.better) == ["drawn, seen"]


def test_earlier_records_have_no_such_table() -> None:
    assert build_soft_tifa_table(results_of(None, None)) == []
