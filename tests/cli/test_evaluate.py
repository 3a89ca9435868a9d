"""`t2i evaluate`: a result in a folder, gone on with, and refused where it cannot be."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from t2i.evaluate.generation.part import GenerationPart
from t2i.optional_dependencies import build_install_command
from t2i.run_folder import locking_folder
from tests.cli.command import Cli, Result
from tests.evaluate.tiny_context import tiny_recogniser
from tests.tiny import tiny_unet
from tests.train import apart
from train.setup.control_networks import build_fresh_controlnet

SUITE = """
[generation]
guidance_scales = [1.0]
batch = 2
seen = { seed = 1, count = 4 }
held_out = { seed = 1, count = 4 }
sweep = { seed = 2, count = 2 }

[inspection]

[editing]
"""
REAL = """
[real]
seen = { seed = 1 }
held_out = { seed = 1 }
methods = [{ label = "a", invert = "ddim" }]
"""
UNITS = 10


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recogniser")
    tiny_recogniser().save(folder, {})
    return folder


@pytest.fixture
def evaluate(cli: Cli, model: Path, recogniser: Path) -> Cli:
    """The generation of a tiny model, into the folder out, unless the arguments say otherwise."""
    (Path.cwd() / "suite.toml").write_text(SUITE)
    notes = {"defaults": {"steps": 2, "guidance_scale": 3.0}}
    (model / "t2i.json").write_text(json.dumps(notes))

    def run(*arguments: str | Path) -> Result:
        options = ("--suite", "suite.toml", "--part", "generation", "--out", "out")
        return cli("evaluate", model, "--recogniser", recogniser, *options, *arguments)

    return run


def records() -> list[str]:
    lines = Path("out/records.jsonl").read_text().splitlines()
    return [json.loads(line)["unit"] for line in lines]


def test_a_result_is_figures_tables_a_page_and_pictures(evaluate: Cli) -> None:
    done = evaluate()
    assert done.code == 0
    assert done.out.splitlines()[-1] == "out/index.html"
    # The figures that matter, a line each, and where the others are.
    assert 1 < len(done.out.splitlines()) <= 11
    assert re.match(r"generation, one object: seen \d+\.\d %, held out \d", done.out)
    assert f"generation {UNITS}/{UNITS}" in done.err
    document = json.loads(Path("out/evaluation.json").read_text())
    assert document["asked"]["steps"] == 2
    assert re.fullmatch("[0-9a-f]{64}", document["model"]["digest"])
    assert re.fullmatch("[0-9a-f]{64}", document["recogniser"])
    assert document["machine"]["cores"] == os.cpu_count()
    assert document["config"]["generation"]["seen"] == {"seed": 1, "count": 4}
    table = document["chapters"]["generation"]["blocks"]["generation"]
    figure = table["rows"][-1]["cells"]["seen"]
    assert figure.keys() == {"value", "low", "high", "count", "samples"}
    assert figure["count"] == 4
    assert re.fullmatch("[01]{4}", figure["samples"])
    assert {*document["scenes"]} == {*document["chapters"]}
    assert len(list(Path("out/pictures").glob("*.png"))) == 12
    assert len(records()) == UNITS

    page = Path("out/index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (2 + 2 + 4)
    assert not re.search(r"<script|(?:src|href)=\"(?!data:|#)|url\((?!#)|@import", page)
    assert "<svg" in page
    tables = Path("out/tables.md").read_text()
    assert tables.startswith("Made by `t2i evaluate ")
    assert "| everything said | " in tables


def test_a_second_start_does_nothing_again_and_answers_in_json(evaluate: Cli) -> None:
    evaluate()
    before = records()
    again = evaluate("--format", "json")
    assert again.code == 0
    assert again.json()["chapters"]["generation"]["title"] == "Generation"
    assert records() == before


def test_a_result_is_held_against_another_without_measuring_again(evaluate: Cli) -> None:
    evaluate()
    before = records()
    done = evaluate("--against", "out/evaluation.json", "--format", "json")
    assert done.code == 0
    chapters = done.json()["chapters"]
    assert next(iter(chapters)) == "against"
    blocks = chapters["against"]["blocks"]
    assert blocks["sure_changes"]["rows"] == []
    assert "compared sample by sample" in chapters["against"]["text"]
    assert "only_in_one" not in blocks
    assert blocks["changes_generation"]["rows"][-1]["cells"]["seen"]["value"] == 0
    assert records() == before


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(
    evaluate: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, done = GenerationPart.measure_unit, []

    def interrupted(part: GenerationPart, unit: str) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(unit)
        return measure(part, unit)

    with monkeypatch.context() as patched:
        patched.setattr(GenerationPart, "measure_unit", interrupted)
        stopped = evaluate()
    assert stopped.code == 130
    assert "Interrupted: 3 units are finished. The same command continues." in stopped.err
    assert not Path("out/index.html").exists()
    assert evaluate().code == 0
    assert records()[:3] == done
    assert sorted(records()) == sorted(set(records()))
    assert len(records()) == UNITS


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(evaluate: Cli) -> None:
    evaluate()
    before = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    Path("suite.toml").write_text(SUITE.replace("count = 2", "count = 3"))
    refused = evaluate()
    assert refused.code == 2
    assert "holds another evaluation: config.generation.sweep.count 2 -> 3" in refused.err
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before


def test_two_runs_on_one_folder_are_refused(evaluate: Cli) -> None:
    with locking_folder(Path("out")):
        refused = evaluate()
    assert refused.code == 5
    assert "Another run is writing to out" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--suite", "scences"), 2, "Unknown suite 'scences'. Did you mean 'scenes'?"),
        (("--suite", "none.toml"), 2, "No such suite: none.toml"),
        (("--against", "none.json"), 2, "Cannot read none.json: No such file or directory."),
        (("--against", "suite.toml"), 2, "suite.toml is no JSON. Give the evaluation.json of"),
        (("--part", "generations"), 2, "Unknown part 'generations'. Did you mean 'generation'?"),
        (("--part", "real"), 2, "This suite has no part 'real'; its parts: generation, inspection"),
        (("--quick",), 2, "Got --quick with suite.toml"),
        (("--recogniser", "nowhere"), 3, "No recogniser can be loaded from nowhere"),
        (("--out", "suite.toml/out"), 5, "Cannot write suite.toml/out"),
    ],
)
def test_what_cannot_be_used_is_refused(
    evaluate: Cli, arguments: tuple[str, ...], code: int, words: str
) -> None:
    refused = evaluate(*arguments)
    assert (refused.code, words in refused.err) == (code, True), refused.err


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("batch = 2", "bach = 2", "Unknown key 'generation.bach'. Did you mean 'batch'?"),
        ("seed = 1, count = 4", "seed = 1", "The key 'generation.seen.count' is missing; add it."),
        ("batch = 2", "batch = true", "generation.batch: Input should be a valid integer"),
        ("batch = 2", 'batch = "2"', "generation.batch: Input should be a valid integer"),
        ("batch = 2", "batch = 2.0", "generation.batch: Input should be a valid integer"),
        ("[1.0]", "[true]", "generation.guidance_scales.0: Input should be a valid number"),
        ("[1.0]", "[nan]", "generation.guidance_scales.0: Input should be a finite number"),
        ("batch = 2", "batch = 1979-05-27", "generation.batch: Input should be a valid integer"),
        ("batch = 2", "batch = ", "Cannot read the suite suite.toml as TOML: Invalid value"),
        ("batch = 2", "batch = 0", "generation.batch: Input should be greater than or equal to 1"),
        ("[generation]", "[generations]", "Did you mean 'generation'?"),
    ],
)
def test_a_slip_in_a_suite_is_named(evaluate: Cli, before: str, after: str, words: str) -> None:
    Path("suite.toml").write_text(SUITE.replace(before, after, 1))
    refused = evaluate()
    assert (refused.code, words in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        (
            "",
            "editing, real, pie_bench, hints, segmentation.",
        ),
        (REAL.replace("label", "labl"), "Unknown key 'real.methods.0.labl'. Did you mean 'label'?"),
        (REAL.replace("ddim", "dim"), "real.methods.0.invert: Unknown inversion method 'dim'"),
        (REAL.replace("ddim", "ddim:steps=3"), "ddim has no argument 'steps'"),
    ],
)
def test_a_slip_in_a_suite_of_real_pictures_is_named(evaluate: Cli, suite: str, words: str) -> None:
    Path("suite.toml").write_text(suite)
    refused = evaluate("--part", "real")
    assert (refused.code, words in refused.err) == (2, True), refused.err


def test_a_suite_of_whole_numbers_may_have_them_for_others(evaluate: Cli) -> None:
    Path("suite.toml").write_text(SUITE.replace("[1.0]", "[1]"))
    assert evaluate().code == 0


def test_a_suite_that_is_no_text_is_refused(evaluate: Cli) -> None:
    Path("suite.toml").write_bytes(b"# \xff")
    refused = evaluate()
    assert refused.code == 2
    assert "Cannot read the suite suite.toml: it is not UTF-8 text (line 1, byte 3)" in refused.err


def test_a_missing_library_is_named_before_the_work(
    evaluate: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    refused = evaluate()
    assert refused.code == 2
    assert build_install_command("evaluate") in refused.err
    assert not Path("out").exists()


def test_a_model_that_the_recogniser_knows_too_little_of_is_refused(
    evaluate: Cli, model: Path
) -> None:
    data = {"kind": "scenes", "vocabulary": ["banana", "apple", "strawberry", "sunflower"]}
    notes = {"trained": {"config": {"data": data}}}
    (model / "t2i.json").write_text(json.dumps(notes))
    refused = evaluate()
    assert refused.code == 3
    assert "knows 1 of the objects" in refused.err
    assert not Path("out/begun.json").exists()
    (model / "t2i.json").write_text(json.dumps({"trained": {"config": 3}}))
    refused = evaluate()
    assert refused.code == 3
    assert "trained.config: Input should be" in refused.err


@pytest.mark.slow
def test_a_kill_loses_at_most_the_unit_at_hand(
    evaluate: Cli, model: Path, recogniser: Path
) -> None:
    (model / "t2i.json").write_text(json.dumps({"defaults": {"steps": 2, "guidance_scale": 3.0}}))
    options = ["--suite", "suite.toml", "--part", "generation", "--out", "out"]
    words = ["evaluate", str(model), *options, "--recogniser", str(recogniser)]
    apart.ready()
    process = apart.start_command(words, Path.cwd(), Path("killed.said").resolve())
    path = Path("out/records.jsonl")
    waited = time.monotonic() + 90
    while not (path.exists() and path.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < waited
        assert process.exitcode is None
        time.sleep(0.02)
    process.kill()
    apart.ended(process)
    before = path.read_bytes().count(b"\n")
    assert evaluate().code == 0
    assert len(records()) == len(set(records())) == UNITS
    assert before >= 2


HINTS = "[hints]\nscenes = { seed = 1, count = 2 }\nregions = false\n"


def test_a_control_is_measured_with_the_suite_hints(
    cli: Cli, model: Path, recogniser: Path
) -> None:
    Path("hints.toml").write_text(HINTS)
    (model / "t2i.json").write_text(json.dumps({"defaults": {"steps": 1, "guidance_scale": 2.0}}))
    build_fresh_controlnet(tiny_unet(), 4).save_pretrained("control")
    options = ("evaluate", model, "--recogniser", recogniser, "--suite", "hints.toml")
    refused = cli(*options)
    assert refused.code == 2
    assert "measures a control: name its network, --control" in refused.err
    assert "no such folder" in cli(*options, "--control", "nowhere").err
    done = cli(*options, "--control", "control", "--out", "out")
    assert done.code == 0
    assert "hints, hint: place IoU" in done.out
    document = json.loads(Path("out/evaluation.json").read_text())
    assert document["control"]
    assert document["command"].endswith("--control control")
    assert [row["label"] for row in document["chapters"]["hints"]["blocks"]["hints"]["rows"]] == [
        "composed scenes", "no hint", "hint", "another scene's hint",
    ]  # fmt: skip


def test_a_control_is_refused_where_nothing_measures_it(evaluate: Cli) -> None:
    assert "do not use: leave it out" in evaluate("--control", "somewhere").err
