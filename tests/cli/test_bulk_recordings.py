"""Lines of a prompts file that edit and look into recorded photos, and record their targets."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from t2i.cli.bulk import photo_cache
from tests.cli.command import Cli, files, pixels, prompts_runner, text_of

CAT, DOG, BOTH = "a red cat", "a red dog", "a red dog and a blue cat"
METHOD = ("--invert", "edit-friendly")


@pytest.fixture
def bulk(cli: Cli, model: Path, photo: Path) -> Cli:
    """Lines into the folder out, on the tiny model; the recording has three steps, not one."""
    return prompts_runner(cli, model, steps=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded") / "cat"


@pytest.fixture
def recording(cli: Cli, model: Path, photo: Path, recorded: Path) -> str:
    """A copy of the recording that the first test made."""
    settings = ("--model", model, "--steps", "3", "--seed", "3")
    if not recorded.exists():
        assert cli("invert", photo, CAT, "--out", recorded, *METHOD, *settings).code == 0
    shutil.copytree(recorded, "cat")
    return "cat"


def entries() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]


def test_lines_edit_and_look_into_a_recording_as_the_commands_do(
    bulk: Cli, cli: Cli, recording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    load = photo_cache.read_recorded_photo
    monkeypatch.setattr(
        photo_cache, "read_recorded_photo", lambda *a, **k: read.append(a) or load(*a, **k)
    )
    line = {"source_folder": recording}
    done = bulk(
        line | {"prompt": DOG, "name": "dog", "weight": "dog=2"},
        line | {"task": "inspect", "words": "cat,sofa", "name": "words"},
        line | {"task": "inspect"},
        line | {"prompt": BOTH, "full_size": True, "name": "both"},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    assert len(read) == 2, "lines in a row read it once; the last of them at its full size"
    cli("edit", "--source", "cat", DOG, "--weight", "dog=2", "--out", "e.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("out/dog.png")))
    cli("inspect", "--source", "cat", "--words", "cat,sofa", "--out", "i.png")
    assert np.array_equal(pixels(Path("i.png")), pixels(Path("out/words.png")))
    cli("edit", "--source", "cat", BOTH, "--full-size", "--out", "f.png")
    assert np.array_equal(pixels(Path("f-target.png")), pixels(Path("out/both.png")))
    dog, words, unnamed, _ = entries()
    assert dog["seed"] == words["seed"] == 3
    assert list(unnamed["words"]) == ["red", "cat"]
    assert unnamed["file"] == "3-cat-9.png"
    again = cli("generate", "--from", "out/dog.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("out/dog.png")))


def test_a_line_records_its_target_which_is_edited_further(
    bulk: Cli, cli: Cli, recording: str
) -> None:
    lines = [
        {"prompt": DOG, "source_folder": recording, "record": "dog", "name": "x"},
        {"prompt": DOG, "source": CAT, "image": "photo.png", "invert": METHOD[1]}
        | {"record": "both", "num": 2, "seed": 5},
    ]
    done = bulk(*lines)
    assert done.code == 0, Path("out/index.jsonl").read_text()
    assert [entry["recorded"] for entry in entries()] == ["dog", "both-1", "both-2"]
    cli("edit", "--source", "cat", DOG, "--record", "mine", "--out", "e.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("out/x.png")))
    for folder, out in (("mine", "a.png"), ("out/dog", "b.png"), ("out/both-2", "c.png")):
        further = cli("edit", "--source", folder, BOTH, "--out", out)
        assert further.code == 0, further.err
    assert np.array_equal(pixels(Path("a-target.png")), pixels(Path("b-target.png")))
    request = json.loads(text_of(Path("b-target.png"))["t2i"])["request"]
    assert [earlier["source"] for earlier in request["edited"]["earlier"]] == [CAT]

    # after a kill between the recording and the index, and after one that lost the recording
    index = Path("out/index.jsonl")
    index.write_text(index.read_text().splitlines()[1] + "\n")
    shutil.rmtree("out/both-1")
    manifest, picture = Path("out/dog/remembered.json"), Path("out/x.png").read_bytes()
    made = manifest.stat().st_mtime_ns
    again = bulk(*lines)
    assert again.code == 0, Path("out/index.jsonl").read_text()
    assert "3 made, 0 made before" in again.err
    assert Path("out/x.png").read_bytes() == picture
    assert manifest.stat().st_mtime_ns == made
    assert Path("out/both-1").is_dir()


def test_a_line_in_a_style_records_its_target_for_the_next_one(bulk: Cli, cli: Cli) -> None:
    line = {"prompt": DOG, "source": CAT, "image": "photo.png", "invert": "direct"}
    done = bulk(line | {"style": 2, "record": "drawn"}, line | {"record": "plain"})
    assert done.code == 0, Path("out/index.jsonl").read_text()
    further = cli("edit", "--source", "out/drawn", "a blue dog", "--style", "2", "--out", "a.png")
    assert further.code == 0, further.err
    refused = cli("edit", "--source", "out/plain", "a blue dog", "--style", "2")
    assert "was not for this source" in refused.err


def test_a_recording_is_never_replaced(bulk: Cli, recording: str) -> None:
    line = {"prompt": DOG, "source_folder": recording, "record": "dog"}
    Path("out/dog").mkdir(parents=True)
    assert "dog exists and is not replaced" in bulk(line).err
    shutil.rmtree("out")
    assert bulk(line).code == 0
    Path("out/index.jsonl").unlink()
    shutil.rmtree("out/dog")
    shutil.copytree("cat", "out/dog")
    done = bulk(line)
    assert done.code == 1
    (entry,) = entries()
    assert "out/dog exists, differs" in entry["error"]["message"]
    assert files(Path("out/dog")) == files(Path("cat"))


def test_a_changed_recording_is_named_before_a_run_is_continued(bulk: Cli, recording: str) -> None:
    line = {"prompt": DOG, "source_folder": recording}
    assert bulk(line).code == 0
    (manifest,) = Path("cat").glob("*.json")
    manifest.write_text(manifest.read_text() + "\n")
    done = bulk(line)
    assert done.code == 2
    assert "what is in cat" in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"source_folder": "cow"}, "cow is not a recorded source: there is no file"),
        ({"source_folder": ""}, "Got '': expected the path of a file"),
        ({"source_folder": "a\0b"}, "expected the path of a file"),
        ({"source_folder": "x" * 300}, "File name too long"),
        ({"source_folder": "photo.png"}, "photo.png is not a recorded source"),
        ({"source_folder": "cat", "steps": 4}, 'Got "steps" with "source_folder": a recording has'),
        ({"source_folder": "cat", "num": 2}, 'Got "num" with "source_folder"'),
        ({"source_folder": "cat", "source": CAT}, 'Got "source" with "source_folder"'),
        ({"source_folder": "cat", "image": "photo.png"}, 'Got "image" with "source_folder"'),
        ({"source_folder": "cat", "budget": 1.0}, 'Got "budget" with "source_folder"'),
        ({"source_folder": "cat", "task": "invert"}, 'Got "source_folder" for "task": "invert"'),
        ({"source_folder": "cat", "task": "inspect"}, 'Got "prompt" with "source_folder"'),
        ({"source_folder": "cat", "words": "cat"}, 'Got "words" with "source_folder"'),
        ({"source_folder": "cat", "prompt": "a <lora:ink> dog"}, 'in "prompt": what is drawn'),
        ({"source_folder": "cat", "prompt": "a cat AND a dog"}, "has parts joined by AND"),
        ({"source_folder": "cat", "prompt": None}, 'There is no "prompt"'),
        ({"source_folder": "cat", "record": "../dog"}, 'Got "record": "../dog". Expected a plain'),
        ({"source_folder": "cat", "record": "bulk.json"}, "a file of the bulk run itself"),
        ({"source_folder": "cat", "record": "Index.0.jsonl"}, "a file of the bulk run itself"),
        ({"record": "dog"}, 'Got "record" without "source"'),
        ({"source": CAT, "record": "dog"}, 'Got "record" without "image"'),
        (
            {"source_folder": "cat", "record": "x.png", "name": "x.png"},
            'as that of line 1. Give another "name"',
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    bulk: Cli, recording: str, line: dict[str, Any], message: str
) -> None:
    done = bulk({"prompt": DOG} | line)
    assert done.code == 4
    assert message in done.err
    assert not Path("out").exists()


def test_a_recording_of_another_model_fails_its_line(
    bulk: Cli, cli: Cli, model: Path, recording: str, tmp_path: Path
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    weights = next((other / "unet").glob("*.safetensors"))
    save_file({name: one * 1.5 for name, one in load_file(weights).items()}, weights)
    Path("p.jsonl").write_text(json.dumps({"prompt": DOG, "source_folder": recording}) + "\n")
    done = cli("generate", "--prompts", "p.jsonl", "--model", other, "--out", "out")
    assert done.code == 1
    assert "model" in entries()[0]["error"]["message"]
    assert not list(Path("out").glob("*.png"))
