"""`t2i generate --upscale`, and the word about pictures larger than those of the training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t2i
from pipelines.upscaling import DEFAULT_UPSCALE_STRENGTH
from t2i.denoiser.families import sd
from tests.cli.command import PROMPT, Cli, pixels, text_of


def test_an_enlarged_picture_is_recorded_and_made_again_bit_for_bit(
    generate: Cli, cli: Cli, model: Path
) -> None:
    options = ("--seed", "3", "--size", "32x48", "--steps", "5")
    generate(*options, "--out", "small.png")
    generate(*options, "--out", "large.png", "--upscale", "2:0.4")
    assert pixels(Path("large.png")).shape == (96, 64, 3)

    texts = text_of(Path("large.png"))
    request = json.loads(texts["t2i"])["request"]
    assert request["upscale"] == {"factor": 2.0, "strength": 0.4}
    assert (request["width"], request["height"]) == (32, 48)
    for said in ("Size: 32x48", "Hires upscale: 2", "Hires steps: 5", "Denoising strength: 0.4"):
        assert said in texts["parameters"]
    assert "upscale  " in cli("show", "large.png").out

    again = cli("generate", "--from", "large.png", "--out", "again.png")
    assert again.code == 0
    assert "Not the same here" not in again.err
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("large.png")))
    # What was typed holds over what was recorded.
    cli("generate", "--from", "large.png", "--upscale", "1.5", "--steps", "7", "--out", "less.png")
    assert Image.open("less.png").size == (48, 72)
    made = json.loads(text_of(Path("less.png"))["t2i"])["request"]["upscale"]
    assert made == {"factor": 1.5, "strength": DEFAULT_UPSCALE_STRENGTH}


def test_lines_of_a_file_are_enlarged_as_single_pictures_are(
    generate: Cli, cli: Cli, model: Path
) -> None:
    lines = [{"prompt": PROMPT, "upscale": "2:0.4", "size": 32}, {"prompt": PROMPT, "size": 32}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cli("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "5", "--seed", "3")
    large, small = sorted(Path("outputs/p").glob("*.png"))
    options = ("--seed", "3", "--size", "32", "--steps", "5", "--upscale", "2:0.4")
    generate(*options, "--out", "alone.png")
    assert np.array_equal(pixels(large), pixels(Path("alone.png")))
    assert Image.open(small).size == (32, 32)

    other = ("--prompts", "p.jsonl", "--model", model, "--steps", "5", "--upscale", "3:0.4")
    done = cli("generate", *other)
    assert done.code == 2
    assert "--upscale None -> 3:0.4" in done.err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("x", "Got --upscale 'x': expected a factor, as in --upscale 2"),
        ("2:much", "expected a factor, as in --upscale 2"),
        ("1", "Got --upscale 1.0: expected a number above 1, up to 4"),
        ("nan", "Got --upscale nan: expected a number above 1, up to 4"),
        (
            "2",
            "Got --upscale 2:0.15 with 2 steps: its strength leaves none of them. Raise it, as in ",
        ),
        ("2", "Got --upscale 2:0.15 with 2 steps: its strength leaves none of them. Raise it, as"),
        ("2:0", "Got --upscale with the strength 0.0: expected a number above 0, up to 1"),
    ],
)
def test_a_slip_in_the_factor_is_answered(generate: Cli, typed: str, said: str) -> None:
    done = generate("--upscale", typed)
    assert done.code == 2
    assert said in done.err


def test_a_changed_picture_is_enlarged_by_its_size(generate: Cli) -> None:
    done = generate("--upscale", "2:0.5", "--image", "x.png")
    assert done.code == 2
    assert "enlarged by naming the size, --size 256. Leave --upscale out." in done.err


def test_an_enlarged_picture_has_no_more_pixels_than_can_be_read_back(generate: Cli) -> None:
    done = generate("--upscale", "4", "--size", "4096x2048")
    assert done.code == 2
    assert "Got a size of 16384x8192: a picture has at most" in done.err


def test_more_pixels_than_in_training_are_warned_of_with_what_to_type(
    generate: Cli, model: Path
) -> None:
    pipe = t2i.load(str(model))
    side, _ = sd.default_height_and_width(pipe.unet, pipe.vae)
    large = generate("--size", str(2 * side), "--out", "large.png")
    assert (
        f"Warning: The model was trained at {side}x{side}: at {2 * side}x{2 * side} it repeats "
        f"things, or draws several side by side. Draw at its size and enlarge that: --size "
        f"{side}x{side} --upscale 2\n"
    ) in large.err
    for size in (f"{side}", f"{2 * side}x{side // 2}"):
        assert "trained at" not in generate("--size", size).err
    enlarged = generate("--upscale", "2", "--steps", "7")
    assert "trained at" not in enlarged.err
