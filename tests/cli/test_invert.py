"""`t2i invert`, and the edits of the folder that it writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import (
    compute_manifest_digest,
    load_recorded_source,
)
from tests.cli.command import Cli, Result, files, pixels, text_of

SOURCE, TARGET = "a red cat", "a red dog"


@pytest.fixture
def invert(cli: Cli, model: Path, photo: Path) -> Cli:
    """`t2i invert` of the photo on the tiny model in five steps."""

    def run(*arguments: str | Path) -> Result:
        return cli("invert", photo, "--model", model, "--steps", "5", "--seed", "7", *arguments)

    return run


def test_a_recorded_photo_is_edited_as_the_photo_itself(
    invert: Cli, cli: Cli, model: Path, photo: Path
) -> None:
    """Bit for bit, and with the same metadata, by which it is made again from the photo."""
    done = invert(SOURCE, "--out", "cat", "--invert", "edit-friendly")
    assert done.code == 0, done.err
    assert done.paths == [Path("cat")]
    assert " MB recorded, seed 7, " in done.err
    photo.rename("moved.png")  # the folder has all that is needed
    targets = (TARGET, "a blue dog", "--target", "dog")
    edited = cli("edit", "--source", "cat", *targets, "--out", "s.png")
    assert edited.code == 0, edited.err
    Path("moved.png").rename(photo)
    settings = ("--model", model, "--steps", "5", "--seed", "7", "--invert", "edit-friendly")
    cli("edit", "--image", photo, SOURCE, *targets, *settings, "--out", "e.png")
    for end in ("", "-source", "-target-1", "-target-2", "-target-3"):
        one, other = Path(f"s{end}.png"), Path(f"e{end}.png")
        assert np.array_equal(pixels(one), pixels(other))
        requests = [json.loads(text_of(path)["t2i"])["request"] for path in (one, other)]
        assert requests[0] == requests[1]
    assert cli("generate", "--from", "s-target-2.png", "--out", "again.png").code == 0
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("s-target-2.png")))


def test_json_has_the_request_the_folder_and_the_error(invert: Cli) -> None:
    answer = invert(SOURCE, "--out", "cat", "--format", "json").json()
    assert answer["folder"] == "cat"
    assert answer["bytes"] == load_recorded_source("cat").bytes
    assert answer["request"]["inversion"]["method"] == "direct:iterations=4"
    assert answer["request"]["inversion"]["autoencoder"] > 0


def test_a_recording_of_a_model_that_has_moved_takes_another_place(
    invert: Cli, cli: Cli, model: Path
) -> None:
    shutil.copytree(model, "here")
    invert(SOURCE, "--out", "cat", "--model", "here")
    Path("here").rename("there")
    done = cli("edit", "--source", "cat", TARGET)
    assert done.code == 3
    assert "was recorded with the model" in done.err
    done = cli("edit", "--source", "cat", TARGET, "--model", "nowhere")
    assert done.code == 3
    assert "Got --model 'nowhere' for cat, which is not found here" in done.err
    assert cli("edit", "--source", "cat", TARGET, "--model", "there").code == 0


def test_a_recording_of_another_model_is_refused_in_words(invert: Cli, cli: Cli) -> None:
    invert(SOURCE, "--out", "cat")
    done = cli("edit", "--source", "cat", TARGET, "--model", "embedded")
    assert done.code == 2
    assert "The source was recorded with model=" in done.err
    assert not Path("outputs").exists() or files(Path("outputs")) == []


@pytest.mark.filterwarnings("ignore:Drawn again from its noise")
def test_a_folder_recorded_in_python_is_refused_in_words(
    cli: Cli, model: Path, photo: Path
) -> None:
    pipe = PromptEditPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 1, "seed": 1}
    pipe.invert(Image.open(photo), SOURCE, "edit-friendly", folder="cat", **run)
    done = cli("edit", "--source", "cat", TARGET)
    assert done.code == 4
    assert "cat was recorded in Python, without the request" in done.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--steps", "3"), "Got --steps with --source"),
        (("--seed", "3"), "Got --seed with --source"),
        (("--image", "photo.png", "--size", "32"), "Got --image and --size with --source"),
        (("--mask", "mask.png", "--fit", "pad"), "Got --fit and --mask with --source"),
    ],
)
def test_what_a_recording_has_already_is_not_taken(
    cli: Cli, options: tuple[str, ...], named: str
) -> None:
    done = cli("edit", "--source", "cat", TARGET, *options)
    assert done.code == 2
    assert named in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "cat"], 2, "Missing PROMPT: the photo is inverted with the prompt that desc"),
        ([SOURCE], 2, "Missing --out FOLDER"),
        ([SOURCE, "--out", "cat", "--invert", "nul-text"], 2, "Did you mean 'null-text'?"),
        ([SOURCE, "--out", "cat", "--budget", "0.00001"], 2, "Recording this source takes"),
        ([SOURCE, "--out", "photo.png"], 5, "photo.png exists and is not replaced"),
        ([SOURCE, "--out", "."], 5, "exists and is not replaced"),
        ([SOURCE, "--out", "photo.png/cat"], 5, "A part of this path is a file, not a folder"),
    ],
)
def test_what_cannot_be_used_is_named(
    invert: Cli, arguments: list[str], code: int, message: str
) -> None:
    done = invert(*arguments)
    assert done.code == code
    assert message in done.err
    assert "Inverting" not in done.err or "--budget" in arguments
    assert files(Path()) == ["photo.png"]


def test_a_folder_that_is_none_is_named(cli: Cli) -> None:
    Path("empty").mkdir()
    done = cli("edit", "--source", "empty", TARGET)
    assert done.code == 4
    assert "empty is not a recorded source: there is no file empty/remembered.json." in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("photo"), "cat records no photo, but a request of one"),
        (lambda manifest: request_in(manifest).update(image=None), "cat records no photo"),
        (lambda manifest: manifest["facts"].update(error={"replay": "x"}), "not a recorded source"),
        (
            lambda manifest: manifest["facts"].update(error={"replay": None}),
            "not a recorded source",
        ),
    ],
)
def test_a_folder_of_other_contents_is_refused_in_words(
    invert: Cli, cli: Cli, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Even where its digests are right."""
    invert(SOURCE, "--out", "cat")
    path = Path("cat/remembered.json")
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["sha256"]["remembered.json"] = compute_manifest_digest(manifest)
    path.write_text(json.dumps(manifest))
    done = cli("edit", "--source", "cat", TARGET)
    assert done.code == 4
    assert message in done.err
    assert files(Path("outputs")) == []


def request_in(manifest: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = manifest["facts"]["notes"]["t2i"]["request"]
    return request
