"""`t2i edit --record`: the target of a photo's edit is recorded, and edited further."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2i.cli.request.prompt_edits import MAX_PROMPTS, EditedPrompts, PrecedingEdit
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from tests.cli.command import Cli, Result, files, pixels, text_of

CAT, DOG, BOTH = "a red cat", "a red dog", "a red dog and a blue cat"
METHOD = ("--invert", "edit-friendly:skip=0.2")


@pytest.fixture
def edit(cli: Cli, model: Path, photo: Path) -> Cli:
    """`t2i edit` of the photo on the tiny model, in five steps."""

    def run(*arguments: str | Path) -> Result:
        options = ("--model", model, "--steps", "5", "--seed", "7", *METHOD)
        return cli("edit", "--image", photo, *arguments, *options)

    return run


def request_of(path: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(text_of(Path(path))["t2i"])["request"]
    return request


def test_an_edit_is_recorded_edited_further_and_made_again(edit: Cli, cli: Cli) -> None:
    plain = edit(CAT, DOG, "--out", "plain.png")
    done = edit(CAT, DOG, "--record", "dog", "--out", "e.png")
    assert done.code == 0, done.err
    assert done.paths == [*map(Path, ("e.png", "e-source.png", "e-target.png", "dog"))]
    assert " recorded" in done.err
    assert plain.code == 0
    assert _largest_difference("plain-target.png", "e-target.png") <= 1
    assert request_of("e-target.png") == request_of("plain-target.png")

    further = cli("edit", "--source", "dog", BOTH, "--record", "both", "--out", "f.png")
    assert further.code == 0, further.err
    assert _largest_difference("f-source.png", "e-target.png") == 0
    assert _largest_difference("f-target.png", "f-source.png") > 1
    edited = request_of("f-target.png")["edited"]
    assert edited["prompts"] == [DOG, BOTH]
    assert [earlier["source"] for earlier in edited["earlier"]] == [CAT]
    assert f"Edited from: {CAT} -> {DOG}" in text_of(Path("f-target.png"))["parameters"]
    assert f"edited before    {CAT}\n" in cli("show", "f-target.png").out

    third = cli("edit", "--source", "both", "a blue dog", "--out", "g.png")
    assert third.code == 0, third.err
    for name in ("f-source", "f-target", "g-target"):
        again = cli("generate", "--from", f"{name}.png", "--out", f"{name}-again.png")
        assert again.code == 0, again.err
        assert "Not the same here" not in again.err
        assert _largest_difference(f"{name}.png", f"{name}-again.png") <= 1

    looked = cli("inspect", "--source", "dog", "--words", "dog", "--out", "words.png")
    assert looked.code == 0, looked.err
    assert "is not in the prompt" not in looked.err


def test_a_line_of_a_prompts_file_edits_a_photo_more_than_once(
    edit: Cli, cli: Cli, model: Path
) -> None:
    edit(CAT, DOG, "--record", "dog", "--out", "e.png")
    cli("edit", "--source", "dog", BOTH, "--out", "f.png")
    line = {"source": [CAT, DOG], "image": "photo.png", "prompt": BOTH, "name": "x"}
    Path("p.jsonl").write_text(json.dumps(line | {"invert": METHOD[1]}) + "\n")
    options = ("--model", model, "--steps", "5", "--out", "out", "--seed", "7")
    done = cli("generate", "--prompts", "p.jsonl", *options)
    assert done.code == 0, done.err
    assert _largest_difference("f-target.png", "out/x.png") <= 1
    again = cli("generate", "--from", "out/x.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert _largest_difference("again.png", "out/x.png") <= 1


def _largest_difference(one: str, other: str) -> int:
    difference = pixels(Path(one)).astype(int) - pixels(Path(other))
    return int(np.abs(difference).max())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([CAT, DOG, BOTH, "--record", "dog"], 2, "Got --record with 2 targets: one TARGET"),
        ([CAT, DOG, "--record", "photo.png"], 5, "photo.png exists and is not replaced"),
        ([CAT, DOG, "--record", "dog", "--budget", "0.00001"], 2, "Recording this source takes"),
        ([CAT, DOG, "--record", "dog", "--blend", "cow,dog"], 2, "'cow' is not in the prompt"),
    ],
)
def test_what_cannot_be_recorded_is_named(
    edit: Cli, photo: Path, arguments: list[str], code: int, message: str
) -> None:
    done = edit(*arguments)
    assert done.code == code
    assert message in done.err
    assert files(Path()) == [photo.name]


def test_a_generated_picture_is_not_recorded(cli: Cli) -> None:
    done = cli("edit", CAT, DOG, "--record", "dog")
    assert "Got --record without --image or --source: edits of photos" in done.err
    assert not files(Path())


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], 'Got 0 prompts in "source"'),
        ([CAT] * (MAX_PROMPTS + 1), f'Got {MAX_PROMPTS + 1} prompts in "source"'),
        ([CAT, DOG], 'Got "source" without "image"'),
        ([CAT, "a cat AND a dog"], "has parts joined by AND"),
    ],
)
def test_sources_of_a_line_that_cannot_be_used_are_named(
    cli: Cli, model: Path, sources: list[str], message: str
) -> None:
    line = {"source": sources, "prompt": BOTH}
    if len(sources) != 2 or "AND" in sources[1]:
        line["image"] = "photo.png"
    Path("p.jsonl").write_text(json.dumps(line) + "\n")
    done = cli("generate", "--prompts", "p.jsonl", "--model", model, "--out", "out")
    assert done.code == 4
    assert message in done.err
    assert not Path("out").exists()


def test_edits_upon_edits_are_of_a_photo() -> None:
    earlier = (PrecedingEdit(source=CAT, edits=()),)
    edited = EditedPrompts(prompts=(DOG, BOTH), picture=1, edits=(), earlier=earlier)
    assert edited.chained_source_prompts == (CAT, DOG)
    with pytest.raises(ArgumentError, match="one upon the other, without the inversion"):
        Request(prompt=BOTH, edited=edited)
    with pytest.raises(ArgumentError, match="one upon the other: at most"):
        EditedPrompts(prompts=(DOG, BOTH), picture=1, edits=(), earlier=earlier * 17)
