"""`t2i show`: what a picture says about its making."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from t2i import __version__
from t2i.cli.metadata.reading import (
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.cli.metadata.writing import build_metadata_texts
from t2i.cli.request.request import Request
from t2i.pictures import save_picture
from tests.cli.carrying import png
from tests.cli.command import PROMPT, Cli

DIGEST = "0123456789abcdef" * 4
EVIL = "a \x1b[31mred\x1b]0;title\x07 cat\r\x9b2J \u202egnp.exe\x00"
ASKED = Request(
    prompt="a cat\nin a hat",
    negative_prompt="a dog",
    model="models/tiny",
    num_inference_steps=2,
    guidance_scale=4.5,
    sampler="euler",
    width=96,
    height=64,
)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_show_prints_prompt_settings_and_tool(cli: Cli, suffix: str) -> None:
    path = Path(f"a{suffix}")
    save_picture(Image.new("RGB", (96, 64)), path, build_metadata_texts(ASKED, 7, DIGEST))
    done = cli("show", path)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:9] == [
        "prompt      a cat",
        "            in a hat",
        "negative    a dog",
        "steps       2",
        "sampler     euler",
        "guidance    4.5",
        "grammar     plain",
        "seed        7",
        "size        96x64",
    ]
    assert lines[9:12] == [
        "model       models/tiny",
        f"model hash  {DIGEST}",
        f"tool        t2i {__version__}",
    ]
    assert re.fullmatch(r"libraries   t2i .*, torch .*", lines[12])


def test_json_is_one_document_with_all_of_it(cli: Cli) -> None:
    text = build_metadata_texts(ASKED, 7, DIGEST)
    save_picture(Image.new("RGB", (96, 64)), Path("a.png"), text)
    told = cli("show", "a.png", "--format", "json").json()
    assert (told["path"], told["tool"]) == ("a.png", f"t2i {__version__}")
    assert (told["prompt"], told["negative_prompt"]) == ("a cat\nin a hat", "a dog")
    assert told["settings"] == {
        **{"num_inference_steps": 2, "sampler": "euler", "guidance_scale": 4.5, "seed": 7},
        **{"width": 96, "height": 64, "model": "models/tiny", "model_hash": DIGEST},
    }
    assert told["request"]["prompt"] == "a cat\nin a hat"
    assert told["raw"] == text["t2i"]
    assert told["not_understood"] == []


def test_a_generated_picture_tells_what_was_asked_for(cli: Cli, model: Path) -> None:
    made = cli("generate", PROMPT, "--model", model, "--steps", "1", "--seed", "3")
    story = read_metadata(made.paths[0])
    assert story.settings.model_hash is not None
    assert list_reproduction_differences(story, story.settings.model_hash) == []
    request, seed = build_request_from_metadata(story)
    assert (request.prompt, request.model, seed) == (PROMPT, str(model), 3)
    assert f"prompt      {PROMPT}\n" in cli("show", made.paths[0]).out


@pytest.mark.parametrize("where", ["prompt", "negative", "model", "tool", "unknown", "sampler"])
def test_nothing_in_a_file_reaches_the_terminal_as_a_command(cli: Cli, where: str) -> None:
    metadata = {
        "positive_prompt": EVIL if where == "prompt" else "a cat",
        "negative_prompt": EVIL if where == "negative" else "",
        "model": {"name": EVIL if where == "model" else "tiny"},
        "app_version": EVIL if where == "tool" else "5.4.0",
        "scheduler": EVIL if where == "sampler" else "euler",
        (EVIL if where == "unknown" else "extra"): EVIL if where == "unknown" else 1,
    }
    png(Path("a.png"), {"invokeai_metadata": json.dumps(metadata)})
    for arguments in ((), ("--format", "json")):
        done = cli("show", "a.png", *arguments)
        assert done.code == 0
        printed = done.out.replace("\n", "")
        assert printed.isprintable(), ascii(printed)
        assert r"\u001b[31mred" in printed
    told = done.json()
    assert told["raw"] == json.dumps(metadata)
    if where == "prompt":
        assert told["prompt"] == EVIL


def test_half_a_character_is_printed_as_its_number(cli: Cli) -> None:
    png(Path("a.png"), {"invokeai_metadata": r'{"positive_prompt": "a \ud800 cat"}'})
    assert r"a \ud800 cat" in cli("show", "a.png").out
    assert cli("show", "a.png", "--format", "json").json()["prompt"] == "a \ud800 cat"


def test_what_was_not_understood_is_listed(cli: Cli) -> None:
    png(Path("a.png"), {"parameters": "a cat\nSteps: 20, Seed: 1e999, Clip skip: 2"})
    out = cli("show", "a.png").out
    assert re.search(r"^not understood  seed: 1e999 \(expected a whole number .*\)$", out, re.M)
    assert re.search(r"^                Clip skip: 2$", out, re.M)
    assert not re.search(r"^seed ", out, re.M)


def test_a_picture_without_a_story_is_an_error(cli: Cli) -> None:
    save_picture(Image.new("RGB", (8, 8)), Path("a.png"))
    done = cli("show", "a.png")
    assert (done.code, done.out) == (4, "")
    assert re.fullmatch(
        r"Error: a\.png has no generation metadata: .*Look for the file as it was made\.\n",
        done.err,
    )
    error = cli("show", "a.png", "--format", "json").json()["error"]
    assert error["type"] == "DataError"


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("prompt", "[" * 100_000, "prompt: not JSON: it is nested more than 100 deep"),
        ("prompt", "x" * 1_000_000, "1,000,007 bytes, at most 262,144 are read"),
        ("Dream", "\x1b[31m", "Dream: expected a prompt in quotes"),
        ("fooocus_scheme", "x", "has no generation metadata"),
    ],
)
def test_hostile_metadata_is_one_clear_line(cli: Cli, key: str, text: str, complaint: str) -> None:
    png(Path("a.png"), {key: text})
    done = cli("show", "a.png")
    assert done.code == 4
    assert complaint in done.err
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err.removeprefix("Error: ")


def test_a_missing_file_and_a_folder_are_errors(cli: Cli) -> None:
    Path("folder").mkdir()
    for name, complaint in (("no.png", "No such picture"), ("folder", "is a folder, not a")):
        done = cli("show", name)
        assert done.code == 4
        assert complaint in done.err
    assert cli("show").code == 2
