"""`t2i generate --prompts`: the pictures of a file, their index, and going on after a stop."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

from t2i.cli.bulk.index import parse_index_entries
from t2i.cli.generation.image_generation import generate_image_and_fill_request
from t2i.cli.request.request import Request
from t2i.run_folder import locking_folder
from tests.cli.command import PROMPT, Cli, Result, files, pixels, text_of

LINES = [
    {"prompt": PROMPT, "name": "first"},
    {"prompt": "a dog", "seed": 3, "sampler": "euler", "size": "48x32", "num": 2},
    {"prompt": "a blue cat", "steps": 3, "guidance": 2, "negative": "a dog"},
]
NAMES = ["2-a-dog-3.png", "2-a-dog-4.png", "3-a-blue-cat-10.png", "first.png"]


@pytest.fixture
def bulk(cli: Cli, model: Path) -> Cli:
    """Pictures of the lines in p.jsonl, into the folder out, unless the arguments say otherwise."""

    def run(*arguments: str | Path) -> Result:
        options = ("--model", model, "--steps", "2", "--out", "out")
        return cli("generate", "--prompts", "p.jsonl", *options, *arguments)

    write(LINES)
    return run


def write(lines: list[dict[str, Any]], name: str = "p.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def index() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]


def pictures(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.png"))}


def test_the_pictures_of_a_file_are_those_of_single_commands(
    bulk: Cli, cli: Cli, model: Path
) -> None:
    done = bulk("--seed", "7")
    assert done.code == 0
    assert done.paths == [Path("out/index.jsonl")]
    assert "4 made, 0 made before, 0 failed, of 4." in done.err
    assert list(pictures()) == NAMES
    alone = {
        "first.png": (PROMPT, "--seed", "7"),
        "2-a-dog-4.png": ("a dog", "--seed", "4", "--sampler", "euler", "--size", "48x32"),
        "3-a-blue-cat-10.png": (
            *("a blue cat", "--seed", "10", "--guidance", "2", "--negative", "a dog"),
            *("--steps", "3"),
        ),
    }
    for name, arguments in alone.items():
        options = ("--model", model, "--steps", "2", "--out", "single")
        single = cli("generate", *options, *arguments)
        assert np.array_equal(pixels(Path("out") / name), pixels(single.paths[0])), name
        assert text_of(Path("out") / name) == text_of(single.paths[0])


def test_the_index_tells_of_each_picture_in_the_order_of_the_file(bulk: Cli) -> None:
    bulk("--seed", "7")
    found = index()
    assert [entry["job"] for entry in found] == [0, 1, 2, 3]
    assert [entry["line"] for entry in found] == [1, 2, 2, 3]
    assert [entry["seed"] for entry in found] == [7, 3, 4, 10]
    assert [entry["file"] for entry in found] == ["first.png", *NAMES[:3]]
    assert found[1]["request"]["sampler"] == "euler"
    assert (found[1]["request"]["width"], found[1]["request"]["height"]) == (48, 32)
    assert found[3]["request"]["negative_prompt"] == "a dog"
    assert all(entry["seconds"] > 0 for entry in found)
    assert files(Path("out")) == sorted([*NAMES, "bulk.json", "index.jsonl", "run.lock"])


def test_a_second_start_makes_nothing_and_answers_in_json(bulk: Cli) -> None:
    bulk()
    before = pictures()
    again = bulk("--format", "json")
    assert again.code == 0
    assert again.json() == {
        "index": "out/index.jsonl",
        "pictures": 4,
        "made": 0,
        "made_before": 4,
        "failed": 0,
        "interrupted": False,
        "warnings": [],
    }
    assert pictures() == before  # also their seeds, which were drawn


def test_a_start_goes_on_from_what_a_kill_left(bulk: Cli) -> None:
    bulk("--seed", "7")
    whole, entries = pictures(), Path("out/index.jsonl").read_text().splitlines(keepends=True)
    times = {name: (Path("out") / name).stat().st_mtime_ns for name in NAMES}
    # killed while it wrote the third line; the fourth picture was half a temporary file
    Path("out/index.0.jsonl").write_text("".join(entries[:2]) + entries[2][:30])
    Path("out/index.jsonl").unlink()
    Path("out/3-a-blue-cat-10.png").rename("out/.3-a-blue-cat-10.png.123.part")
    done = bulk("--seed", "7")
    assert "2 made, 2 made before, 0 failed, of 4." in done.err
    assert pictures() == whole
    assert files(Path("out")) == sorted([*NAMES, "bulk.json", "index.jsonl", "run.lock"])
    assert [entry["job"] for entry in index()] == [0, 1, 2, 3]
    kept = [name for name in NAMES if (Path("out") / name).stat().st_mtime_ns == times[name]]
    assert kept == ["2-a-dog-3.png", "2-a-dog-4.png", "first.png"]


def test_a_picture_that_was_removed_is_made_again(bulk: Cli) -> None:
    bulk("--seed", "7")
    whole = pictures()
    Path("out/first.png").unlink()
    assert "1 made, 3 made before" in bulk().err
    assert pictures() == whole


def test_a_failing_prompt_is_recorded_and_tried_again_and_the_rest_goes_on(bulk: Cli) -> None:
    write([{"prompt": "a cat", "size": "30x32"}, {"prompt": "a dog"}, {"prompt": "cat " * 600}])
    done = bulk("--seed", "7")
    assert done.code == 1
    assert "1 made, 0 made before, 2 failed, of 3." in done.err
    assert "p.jsonl:1: Got width=30, but this model needs a multiple of 4" in done.err
    failed, made, long = index()
    assert failed["error"]["type"] == "ArgumentError"
    assert "width=30" in failed["error"]["message"]
    assert "file" not in failed
    assert made["file"] == "2-a-dog-8.png"
    assert "The prompt fills" in long["error"]["message"]
    again = bulk("--seed", "7")
    assert again.code == 1
    assert "0 made, 1 made before, 2 failed, of 3." in again.err
    assert len(index()) == 3


def test_what_a_picture_was_warned_of_is_in_the_index(
    bulk: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warning(*arguments: Any, **settings: Any) -> tuple[Request, Image]:
        for _ in range(2):
            warnings.warn("left out: a cat", stacklevel=1)
        warnings.warn("not for users", FutureWarning, stacklevel=1)
        return generate_image_and_fill_request(*arguments, **settings)

    monkeypatch.setattr("t2i.cli.bulk.worker.generate_image_and_fill_request", warning)
    assert bulk().code == 0
    said = [[text for text in one["warnings"] if "trained at" not in text] for one in index()]
    assert said == [["left out: a cat"]] * 4
    sizes = {one["request"]["width"] for one in index() if len(one["warnings"]) > 1}
    assert sizes == {48}  # more than the model was trained at


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--steps", "3"), r"out was begun with something else: --steps 2 -> 3\. Give what it was"),
        (("--seed", "8"), r"--seed 7 -> 8\."),
        (("--num", "2"), r"--num 1 -> 2\."),
        (
            ("--negative", "rain", "--size", "64"),
            r"--negative  -> rain; --size \(width\) None -> 64",
        ),
        (("--no-metadata",), r"metadata True -> False"),
        (("--model", "copy"), r"--model \S+tiny -> copy\."),
        (("--prompts", "other.jsonl"), r"the prompts \(p\.jsonl -> other\.jsonl\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_work_does_not_go_on_in_the_same_folder(
    bulk: Cli, model: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    write(LINES[:1])
    bulk("--seed", "7")
    before = files(Path("out"))
    write(LINES[1:2], "other.jsonl")
    shutil.copytree(model, "copy")
    done = bulk("--seed", "7", *arguments)
    assert done.code == 2
    assert re.search(complaint, done.err), done.err
    assert files(Path("out")) == before


def test_no_file_of_somebody_else_is_replaced(bulk: Cli) -> None:
    write([{"prompt": "a cat", "name": "cat"}, {"prompt": "a dog", "name": "dog"}])
    Path("out").mkdir()
    Path("out/cat.png").write_bytes(b"mine")
    done = bulk()
    assert done.code == 5
    assert "out/cat.png exists and is not replaced: remove it, or choose another" in done.err
    assert files(Path("out")) == ["cat.png"]

    Path("out/cat.png").unlink()
    assert bulk().code == 0
    Path("out/index.jsonl").unlink()
    Path("out/cat.png").write_bytes(b"mine")
    done = bulk()
    assert done.code == 1
    assert "out/cat.png exists, differs from the picture of this line" in done.err
    assert Path("out/cat.png").read_bytes() == b"mine"
    assert index()[1]["file"] == "dog.png"


@pytest.mark.parametrize(
    ("lines", "code", "complaint"),
    [
        (["x", '"prompt"'], 4, r"2 lines of p\.jsonl cannot be used:\np\.jsonl:1: .*\np\.jsonl:2:"),
        (['{"prompt": "x", "name": "../x"}'], 4, r"p\.jsonl:1: Got \"name\": \"\.\./x\""),
        (
            ['{"prompt": "x", "sampler": "dimm"}'],
            4,
            r"p\.jsonl:1: Unknown sampler 'dimm'\. Did you",
        ),
        (['{"prompt": "x", "name": "A.png"}', '{"prompt": "y", "name": "a"}'], 4, r":2: its pict"),
        ([f'{{"prompt": "x", "seed": {2**53}, "num": 2}}'], 2, r"its seed would be above"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_is_made(
    bulk: Cli, lines: list[str], code: int, complaint: str
) -> None:
    Path("p.jsonl").write_text("\n".join(lines))
    done = bulk()
    assert done.code == code
    assert re.search(complaint, done.err), done.err
    assert files(Path()) == ["p.jsonl"]


def test_a_folder_is_worked_in_by_one_command_at_a_time(bulk: Cli) -> None:
    with locking_folder(Path("out")):
        done = bulk()
    assert done.code == 5
    assert "Another run is writing to out: wait for it" in done.err


def test_a_state_that_cannot_be_read_is_named(bulk: Cli) -> None:
    Path("out").mkdir()
    for text in ("{", '{"version": 9}', "[]"):
        Path("out/bulk.json").write_text(text)
        done = bulk()
        assert done.code == 5
        assert re.search(r"Cannot continue in out: bulk\.json: .*Choose another folder", done.err)


def test_pictures_without_metadata_and_in_other_formats(bulk: Cli) -> None:
    write([{"prompt": "a cat", "name": "cat.jpg"}, {"prompt": "a dog", "name": "dog", "num": 2}])
    assert bulk("--no-metadata").code == 0
    assert [entry["file"] for entry in index()] == ["cat.jpg", "dog-1.png", "dog-2.png"]
    assert text_of(Path("out/dog-1.png")) == {}


def test_without_out_each_file_has_a_folder_of_its_own(cli: Cli, model: Path) -> None:
    Path("fruit.txt").write_text("a red apple\n")
    done = cli("generate", "--prompts", "fruit.txt", "--model", model, "--steps", "1")
    assert done.paths == [Path("outputs/fruit/index.jsonl")]


def test_a_bar_counts_the_pictures_where_somebody_watches(
    bulk: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "pictures/s" not in bulk().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    Path("out/first.png").unlink()
    assert re.search(r"pictures .*4/4.*pictures/s", bulk().err.replace("\n", " "))


def test_lines_that_were_cut_short_or_hold_half_letters_are_passed_over() -> None:
    whole = b'{"job": 1, "error": {}}\n'
    others = b'{"job": 2, "fi\n[]\n\xff\n{"job": 3, "\\ud800error": {}}\n'
    assert [entry["job"] for entry in parse_index_entries(whole + others)] == [1]


@pytest.mark.parametrize("option", [("--method", "apg"), ("--grammar", "plain")])
def test_another_grammar_or_method_is_another_work(
    cli: Cli, model: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    asked = ("generate", "--prompts", "p.txt", "--out", "o", "--model", model, "--steps", "1")
    assert cli(*asked).code == 0
    done = cli(*asked, *option)
    assert done.code == 2
    assert option[0] in done.err
