"""`t2i inspect --image`: heat maps of a photo, read from the recording of its inversion."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_heat_maps import read_recorded_heat_maps
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from t2i.attention import Concept, load_map_tensors
from tests.cli.command import Cli, Result, files, pixels, text_of

PROMPT = "a red cat to the left"


@pytest.fixture
def inspect(cli: Cli, model: Path, photo: Path) -> Cli:
    """`t2i inspect` of the photo on the tiny model in three steps."""

    def run(*arguments: str | Path) -> Result:
        options = ("--model", model, "--steps", "3", "--seed", "7")
        return cli("inspect", "--image", photo, *options, *arguments)

    return run


def test_the_words_of_a_photo_are_shown_over_the_photo(inspect: Cli, photo: Path) -> None:
    done = inspect(PROMPT, "--out", "strip.png")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["word", "red", "cat", "left"]
    assert lines[4:] == ["strip.png", "strip.safetensors"]
    assert "Inverting photo.png by direct:iterations=4" in done.err
    assert list(load_map_tensors("strip.safetensors")) == ["cat", "left", "red"]
    shown = pixels(Path("strip.png"))
    assert shown.shape[1] == 4 * 256 + 5 * 8
    enlarged = Image.open(photo).resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(shown[8:264, 8:264], np.asarray(enlarged))
    request = json.loads(text_of(Path("strip.png"))["t2i"])["request"]
    assert request["inversion"]["autoencoder"] > 0


def test_a_recorded_photo_is_looked_into_as_the_photo_itself(
    inspect: Cli, cli: Cli, model: Path, photo: Path
) -> None:
    """Without the model's UNet: the maps are those of the recording."""
    cli("invert", photo, PROMPT, "--model", model, "--steps", "3", "--seed", "7", "--out", "kept")
    photo.rename("moved.png")
    answer = cli("inspect", "--source", "kept", "--words", "cat,red", "--format", "json").json()
    Path("moved.png").rename(photo)
    assert inspect(PROMPT, "--words", "cat,red", "--out", "own.png").code == 0
    found, own = load_map_tensors(answer["maps"]), load_map_tensors("own.safetensors")
    pipe = PromptEditPipeline.from_pretrained(model)
    expected = read_recorded_heat_maps(pipe, load_recorded_source("kept"), "cat", "red")
    for word in ("cat", "red"):
        assert np.array_equal(found[word], own[word])
        assert np.array_equal(found[word], expected[word])
    drawn = cli("inspect", "--source", "kept", "--words", "cat", "--segment", "--animate")
    *_, segments, steps = drawn.out.splitlines()
    assert Image.open(segments).width > 256
    with Image.open(steps) as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]  # of a PNG with frames


def test_words_that_the_prompt_lacks_are_read_beside_it(
    inspect: Cli, cli: Cli, model: Path, photo: Path
) -> None:
    """With a warning that names near words; the maps of the prompt's own words stay the same."""
    answer = inspect(PROMPT, "--words", "cat,cats,a dog", "--format", "json").json()
    assert {word: facts["in_prompt"] for word, facts in answer["words"].items()} == {
        "cat": True,
        "cats": False,
        "a dog": False,
    }
    assert any(
        "'cats' is not in the prompt. Nearest: cat. It is read beside the prompt." in warning
        for warning in answer["warnings"]
    )
    cli("invert", photo, PROMPT, "--model", model, "--steps", "3", "--seed", "7", "--out", "kept")
    pipe = PromptEditPipeline.from_pretrained(model)
    source = load_recorded_source("kept")
    expected = read_recorded_heat_maps(pipe, source, "cat", Concept("cats"), Concept("a dog"))
    found = load_map_tensors(answer["maps"])
    for word in ("cat", "cats", "a dog"):
        assert np.abs(np.asarray(found[word]) - np.asarray(expected[word])).max() < 1e-5
    done = cli("inspect", "--source", "kept", "--words", "dog")
    assert done.code == 0
    assert "'dog' is not in the prompt" in done.err


def test_a_photo_without_description_is_looked_into_by_any_word(inspect: Cli) -> None:
    done = inspect("", "--words", "dog,red cat", "--out", "strip.png")
    assert done.code == 0, done.err
    assert list(load_map_tensors("strip.safetensors")) == ["dog", "red cat"]
    done = inspect("", "--words", "dog,(", "--out", "none.png")
    assert done.code == 2
    assert "Got Concept('('), which the CLIPTokenizer of this model cannot split" in done.err
    assert not Path("none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Got --image without PROMPT: the photo is inverted with the prompt"),
        ([""], 2, "The prompt is empty: name the words to look up with --words"),
        ([PROMPT, "--invert", "direkt"], 2, "Did you mean 'direct'?"),
        ([PROMPT, "--words", "a" * 30_000], 2, "A word of --words is 30,000 letters long"),
        ([PROMPT, "--source", "kept"], 2, "and PROMPT with --source: a recording"),
        ([PROMPT, "--budget", "0.00001"], 2, "Recording this source takes"),
    ],
)
def test_what_cannot_be_used_is_named(
    inspect: Cli, photo: Path, arguments: list[str], code: int, message: str
) -> None:
    done = inspect(*arguments)
    assert done.code == code
    assert message in done.err
    assert "Inverting" not in done.err or "--budget" in arguments
    assert files(Path()) == [photo.name]


def test_a_missing_prompt_is_named(cli: Cli) -> None:
    assert "Missing PROMPT, as in: t2i inspect" in cli("inspect").err
