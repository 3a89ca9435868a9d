"""Lines of a prompts file that look into an image or a photo, or record a photo."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from pipelines.prompt_to_prompt.recording import RECORDING_MANIFEST_NAME
from t2i.cli.bulk import photo_cache
from t2i.cli.bulk.prompts_file import read_prompts_file
from tests.cli.command import PROMPT, Cli, files, pixels, prompts_runner, text_of

SOURCE = "a red cat"
PHOTO_LINE = {"prompt": SOURCE, "image": "photo.png", "invert": "direct"}


@pytest.fixture
def bulk(cli: Cli, model: Path, photo: Path) -> Cli:
    """Lines into the folder out, on the tiny model in three steps."""

    return prompts_runner(cli, model, steps=3)


def entries() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]


def same_maps(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(ours[word].equal(theirs[word]) for word in ours)


def test_lines_look_into_pictures_and_photos_as_the_command_does(
    bulk: Cli, cli: Cli, model: Path
) -> None:
    done = bulk(
        {"task": "inspect", "prompt": PROMPT, "words": "cat,red apple", "name": "drawn"},
        {"task": "inspect", **PHOTO_LINE, "words": ["cat", "whisker"], "seed": 7, "name": "photo"},
        {"task": "inspect", "prompt": PROMPT, "seed": 7},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    settings = ("--model", model, "--steps", "3", "--seed", "7")
    cli("inspect", PROMPT, "--words", "cat,red apple", *settings, "--out", "d.png")
    photo = ("--image", "photo.png", SOURCE, "--invert", "direct", "--words", "cat,whisker")
    assert cli("inspect", *photo, *settings, "--out", "i.png").code == 0
    assert same_maps(Path("d.safetensors"), Path("out/drawn.safetensors"))
    assert np.array_equal(pixels(Path("d.png")), pixels(Path("out/drawn.png")))
    assert same_maps(Path("i.safetensors"), Path("out/photo.safetensors"))
    assert np.array_equal(pixels(Path("i.png")), pixels(Path("out/photo.png")))
    drawn, of_photo, left_open = entries()
    assert drawn["maps"] == "drawn.safetensors"
    assert list(drawn["words"]) == ["cat", "red apple"]
    assert list(left_open["words"]) == ["red", "apple", "left", "cat"]
    assert not of_photo["words"]["whisker"]["in_prompt"]
    assert any("whisker" in warning for warning in of_photo["warnings"])
    request = json.loads(text_of(Path("out/photo.png"))["t2i"])["request"]
    assert request["inversion"]["method"] == "direct:iterations=4"


def test_a_line_has_the_label_picture_and_the_animation_of_the_command(
    bulk: Cli, cli: Cli, model: Path
) -> None:
    line = {"task": "inspect", "words": "cat", "segment": True, "animate": True}
    done = bulk(
        {**line, "prompt": PROMPT, "name": "drawn", "seed": 7},
        {**line, **PHOTO_LINE, "seed": 7, "name": "photo", "segment": False},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    settings = ("--model", model, "--steps", "3", "--seed", "7", "--words", "cat")
    cli("inspect", PROMPT, *settings, "--segment", "--animate", "--out", "d.png")
    for ending in ("-segments.png", "-steps.png"):
        assert Path(f"out/drawn{ending}").read_bytes() == Path(f"d{ending}").read_bytes()
    assert Path("out/photo-steps.png").is_file()
    assert not Path("out/photo-segments.png").exists()
    again = bulk(
        {**line, "prompt": PROMPT, "name": "drawn", "seed": 7},
        {**line, **PHOTO_LINE, "seed": 7, "name": "photo", "segment": False},
    )
    assert "0 made, 2 made before" in again.err


@pytest.mark.parametrize("key", ["segment", "animate", "words"])
def test_keys_of_heat_maps_need_their_task(bulk: Cli, key: str) -> None:
    done = bulk({"prompt": PROMPT, key: "cat" if key == "words" else True})
    assert done.code == 4
    assert f'Got "{key}" without "task": "inspect"' in done.err


def test_a_line_records_a_photo_that_the_command_edits(
    bulk: Cli, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted: list[object] = []
    invert = photo_cache.invert_photo
    monkeypatch.setattr(
        photo_cache, "invert_photo", lambda *a, **k: inverted.append(a) or invert(*a, **k)
    )
    line = {key: value for key, value in PHOTO_LINE.items() if key != "prompt"}
    done = bulk(
        {"task": "invert", **PHOTO_LINE, "name": "cat.v1"},
        {"prompt": "a red dog", "source": SOURCE, **line, "seed": 7, "name": "dog"},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    assert len(inverted) == 1
    recorded, _ = entries()
    assert recorded["file"] == "cat.v1"
    assert recorded["request"]["inversion"]["autoencoder"] > 0
    assert cli("edit", "--source", "out/cat.v1", "a red dog", "--out", "e.png").code == 0
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("out/dog.png")))
    assert cli("inspect", "--source", "out/cat.v1", "--words", "cat", "--out", "w.png").code == 0

    # Continued after a kill between the results and the index: nothing is made or lost.
    before = files(Path("out"))
    Path("out/index.jsonl").unlink()
    made = {path: path.stat().st_mtime_ns for path in Path("out/cat.v1").iterdir()}
    done = bulk(
        {"task": "invert", **PHOTO_LINE, "name": "cat.v1"},
        {"prompt": "a red dog", "source": SOURCE, **line, "seed": 7, "name": "dog"},
    )
    assert done.code == 0, done.err
    assert files(Path("out")) == before
    assert made == {path: path.stat().st_mtime_ns for path in Path("out/cat.v1").iterdir()}


def test_a_line_records_a_photo_for_edits_in_its_style(bulk: Cli, cli: Cli, model: Path) -> None:
    line = {"task": "invert", **PHOTO_LINE, "seed": 7}
    done = bulk(line | {"name": "styled", "for_style": True}, line | {"name": "plain"})
    assert done.code == 0, Path("out/index.jsonl").read_text()
    style = ("a blue dog", "--style", "2", "--out")
    drawn = cli("edit", "--source", "out/styled", *style, "a.png")
    assert drawn.code == 0, drawn.err
    refused = cli("edit", "--source", "out/plain", *style, "b.png")
    assert "was not for this source" in refused.err
    manifest = json.loads(Path("out/styled/remembered.json").read_text())
    assert [edit["edit"] for edit in manifest["facts"]["for_edits"]] == ["style-aligned"]


def test_a_recording_and_maps_of_others_are_not_replaced(bulk: Cli) -> None:
    lines = (
        {"task": "invert", **PHOTO_LINE, "name": "cat"},
        {"task": "inspect", "prompt": PROMPT, "words": "cat", "name": "x"},
    )
    assert bulk(*lines).code == 0
    Path("out/index.jsonl").unlink()
    Path("out/x.safetensors").write_bytes(b"mine")
    Path("out/cat", RECORDING_MANIFEST_NAME).rename("out/cat/mine.json")
    done = bulk(*lines)
    assert done.code == 1
    assert [entry["error"]["type"] for entry in entries()] == ["OutputError", "OutputError"]
    assert Path("out/x.safetensors").read_bytes() == b"mine"
    assert Path("out/cat/mine.json").exists()
    assert not [name for name in files(Path("out")) if "again" in name]


def test_maps_that_a_kill_left_without_their_strip_are_completed(bulk: Cli) -> None:
    line = {"task": "inspect", "prompt": PROMPT, "words": "cat,apple", "name": "x"}
    assert bulk(line).code == 0
    strip = Path("out/x.png").read_bytes()
    Path("out/x.png").unlink()
    assert bulk(line).code == 0
    assert Path("out/x.png").read_bytes() == strip


def test_the_budget_of_a_line_is_kept(bulk: Cli) -> None:
    done = bulk({"task": "invert", **PHOTO_LINE, "budget": 1e-6, "name": "cat"})
    assert done.code == 1
    (entry,) = entries()
    assert "budget" in entry["error"]["message"]
    assert not Path("out/cat").exists()


def test_an_empty_prompt_describes_a_photo_without_words(bulk: Cli) -> None:
    assert bulk({"task": "invert", **PHOTO_LINE, "prompt": "", "name": "cat"}).code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"words": "cat"}, 'Got "words" without "task": "inspect"'),
        ({"task": "inspct"}, "Input should be 'generate', 'edit', 'inspect' or 'invert'"),
        ({"task": "invert"}, 'Got "task": "invert" without "image"'),
        ({"task": "edit"}, 'Got "task": "edit", which needs a "source"'),
        ({"task": "generate", "source": "a cat"}, 'which has no "source"'),
        ({"task": "inspect", "words": "cat,,dog"}, "Got --words 'cat,,dog'"),
        ({"task": "inspect", "fit": "pad"}, 'Got "fit" without "image"'),
        ({"task": "inspect", "source": "a cat"}, 'Got "source" for "task": "inspect"'),
        ({"task": "inspect", "weight": "cat=2"}, 'Got "weight" for "task": "inspect"'),
        ({"task": "inspect", "upscale": 2}, 'Got "upscale" for "task": "inspect"'),
        ({"task": "inspect", "prompt": "a AND b"}, "has parts joined by AND"),
        (PHOTO_LINE | {"task": "invert", "full_size": True}, 'Got "full_size" for "task"'),
        (PHOTO_LINE | {"task": "invert", "words": "cat"}, 'Got "words" without "task": "inspect"'),
        (PHOTO_LINE | {"task": "invert", "strength": 0.5}, 'Got "strength" for "task"'),
        (PHOTO_LINE | {"task": "invert", "invert": "drect"}, "Unknown inversion method 'drect'"),
        (PHOTO_LINE | {"task": "invert", "budget": -1}, "Got --budget -1"),
        (PHOTO_LINE | {"task": "invert", "name": "a/b"}, "Expected a plain file name"),
        ({"budget": 2}, 'Got "budget" without "source"'),
        ({"for_style": True}, 'Got "for_style" without "task": "invert"'),
        ({"task": "inspect", "for_style": True}, 'Got "for_style" without "task": "invert"'),
    ],
)
def test_a_line_that_cannot_be_used_is_named(bulk: Cli, line: dict[str, Any], message: str) -> None:
    done = bulk({"prompt": PROMPT} | line)
    assert done.code == 4
    assert "p.jsonl:1: " in done.err
    assert message in done.err
    assert not Path("out").exists()


def test_names_of_maps_are_unique_too(bulk: Cli) -> None:
    done = bulk(
        {"task": "inspect", "prompt": PROMPT, "name": "x.png"},
        {"task": "inspect", "prompt": PROMPT, "name": "x.jpg"},
    )
    assert done.code == 4
    assert "'x.safetensors', as that of line 1" in done.err


def test_cells_of_a_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('prompt,task,image,words\na cat,inspect,cat.jpg,"cat,red fur; tail"\n')
    (line,) = read_prompts_file(path)
    assert line.reading is not None
    assert line.reading.words == ("cat", "red fur", "tail")
