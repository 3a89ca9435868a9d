"""Suites on the embedded model: a change that breaks conditioning, maps or edits fails.

The default run measures the first scenes and pairs of the quick presets, `make test-all` the
presets too. Floors lie far below what the model reaches, for a few samples say little; a broken
model is at chance, which is lower still.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from t2i.cli import main
from t2i.evaluate.suite import QUICK_SUITES, SUITES, read_suite_config

# The presets take about one minute each on two cores that do nothing else.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
DRAWN, BY_ANOTHER = "drawn", "drawn, another's caption"
SHORT = """
[generation]
seen = { seed = 70001, count = 4 }
held_out = { seed = 70001, count = 2 }
sweep = { seed = 70002, count = 1 }
[inspection]
levels = [0.7, 0.4]
choose = { seed = 41, count = 2 }
seen = { seed = 42, count = 2 }
held_out = { seed = 43, count = 2 }
drawn = { seed = 44, count = 1 }
[editing]
seed = 51
swap = 1
recolour = 0
background = 0
strengthen = 0
two = 0
cost_rounds = 0
"""
SHORT_REAL = """
[real]
seen = { seed = 61, swap = 1 }
held_out = { seed = 62 }
methods = [{ label = "direct, P2P, LocalBlend", invert = "direct" }]
"""
PRESET = pytest.param("preset", marks=pytest.mark.long)


def evaluated(folder: Path, *options: str | Path) -> dict[str, Any]:
    out = folder / "out"
    assert main(["evaluate", "embedded", "--out", str(out), *map(str, options)]) == 0
    document: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    assert (out / "index.html").is_file()
    return document


@pytest.fixture(scope="module", params=[SHORT, PRESET], ids=["short", "preset"])
def result(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("scenes")
    if request.param == "preset":
        return evaluated(folder, "--quick")
    (folder / "suite.toml").write_text(request.param)
    return evaluated(folder, "--suite", folder / "suite.toml")


@pytest.fixture(scope="module", params=[SHORT_REAL, PRESET], ids=["short", "preset"])
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("real")
    if request.param == "preset":
        return evaluated(folder, "--suite", "real", "--quick")
    (folder / "suite.toml").write_text(request.param)
    return evaluated(folder, "--suite", folder / "suite.toml")


def figures(result: dict[str, Any], chapter: str, table: str, head: str) -> dict[str, float]:
    """By the labels of the rows."""
    rows = result["chapters"][chapter]["blocks"][table]["rows"]
    cells = {row["label"]: row["cells"][head] for row in rows}
    return {label: cell["value"] for label, cell in cells.items() if isinstance(cell, dict)}


def test_the_suites_that_come_along_can_be_read() -> None:
    assert SUITES.keys() == QUICK_SUITES.keys()
    for name in SUITES:
        full, quick = read_suite_config(name, quick=False), read_suite_config(name, quick=True)
        assert quick.part_names == full.part_names
        if full.generation is not None and quick.generation is not None:
            assert quick.generation.seen.count < full.generation.seen.count
            # No scene that a default is chosen on stands in a table.
            assert full.generation.sweep.seed != full.generation.seen.seed
        if full.real is not None and quick.real is not None:
            assert quick.real.seen.swap < full.real.seen.swap
            labels = {method.label for method in full.real.methods}
            assert {method.label for method in quick.real.methods} <= labels


def test_the_recogniser_knows_real_scenes(result: dict[str, Any]) -> None:
    for split in ("seen", "held out"):
        right = figures(result, "recogniser", "recogniser", split)
        assert right["each of several objects"] >= 0.8
        assert right["background"] >= 0.8


def test_pictures_show_what_their_captions_say_and_not_what_others_say(
    result: dict[str, Any],
) -> None:
    right = figures(result, "generation", "control", DRAWN)
    assert right["one object"] >= 0.5
    assert right["each of several objects"] >= 0.5
    assert right["background"] >= 0.6
    by_another = figures(result, "generation", "control", BY_ANOTHER)
    assert by_another["one object"] <= 0.4
    assert by_another["everything said"] <= 0.25


@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_heat_maps_lie_where_their_words_are(result: dict[str, Any], split: str) -> None:
    overlap = figures(result, "inspection", f"inspection_{split}", "mIoU")
    hits = figures(result, "inspection", f"inspection_{split}", "pointing game")
    assert overlap["our default"] >= 0.4
    assert overlap["our default"] >= overlap["control: our default, of another word"] + 0.15
    assert hits["our default"] >= 0.6


def test_edits_change_what_is_asked_and_keep_the_rest(result: dict[str, Any]) -> None:
    success = figures(result, "editing", "editing", "success")
    kept = figures(result, "editing", "editing", "background PSNR")
    assert success["Replace / Refine"] >= 0.25
    assert kept["Replace / Refine"] >= kept["no control"] + 1.5
    assert kept["+ LocalBlend"] >= kept["no control"] + 5


def test_a_picture_that_the_model_did_not_draw_is_edited_and_kept_elsewhere(
    real: dict[str, Any],
) -> None:
    success = figures(real, "real", "real_seen", "success")
    kept = figures(real, "real", "real_seen", "kept PSNR")
    assert success["no edit"] == 0
    assert success["composed target"] >= 0.75
    assert success["direct, P2P, LocalBlend"] >= 0.5
    assert kept["autoencoder alone"] >= 30
    assert kept["direct, P2P, LocalBlend"] >= kept["drawn anew"] + 8
