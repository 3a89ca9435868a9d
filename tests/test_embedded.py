"""The model that comes with the package: small, ordinary, and told what to draw by the prompt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import t2i
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.probes.presence import compute_attention_fingerprint, find_presence_fit

FOLDER = Path(t2i.__file__).parent / "assets" / "embedded"
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    pipe = t2i.load("embedded")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def border(picture: Image.Image) -> np.ndarray:
    """Mean colour of the outermost four pixels, in 0..1."""
    pixels = np.asarray(picture, dtype=np.float64) / 255
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[4:-4, 4:-4] = True
    mean: np.ndarray = pixels[~inside].mean(axis=0)
    return mean


def test_it_is_at_most_64_mb_in_files_below_15_mb_without_pickles() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64e6
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert all(path.stat().st_size <= 15e6 for path in weights)
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".png", ".md", ".txt"}


def test_the_plain_diffusers_pipeline_loads_it_and_draws_the_same(
    pipe: TextToImagePipeline,
) -> None:
    theirs = StableDiffusionPipeline.from_pretrained(FOLDER)
    theirs.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    ours_pixels = pipe("a red apple", generator=seeded(5), **asked).images
    their_pixels = theirs("a red apple", generator=seeded(5), **asked).images
    assert torch.equal(ours_pixels, their_pixels)


def test_its_presence_fit_is_for_its_weights(pipe: TextToImagePipeline) -> None:
    """After new weights: python -m t2i.evaluate.presence.fit embedded."""
    fit = find_presence_fit(pipe)
    assert fit is not None
    assert fit.weights == compute_attention_fingerprint(pipe)
    assert {"default", "refined"} <= fit.conventions.keys()
    with t2i.attend(pipe) as attn:
        maps = attn.probe("star", "red")
        pipe("a red star", generator=seeded(3), num_inference_steps=5)
    assert maps.found("star").is_missing is False
    assert maps.found("red").probability is None


@pytest.fixture(scope="module")
def stars(pipe: TextToImagePipeline) -> dict[str, Image.Image]:
    """A star on a background of each colour, by its name."""
    drawn = pipe(
        [f"a star on a {name} background" for name in COLOURS],
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=[seeded(0) for _ in COLOURS],
    )
    return dict(zip(COLOURS, drawn.images, strict=True))


@pytest.mark.parametrize("name", COLOURS)
def test_the_background_is_the_one_asked_for(stars: dict[str, Image.Image], name: str) -> None:
    seen = border(stars[name])
    distance = {name: np.abs(seen - np.array(colour)).sum() for name, colour in COLOURS.items()}
    assert min(distance, key=lambda name: distance[name]) == name, (seen, distance)


def test_its_card_and_notes_say_how_it_was_made() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for piece in ("Capabilities and limitations", "samples.png", "loss.png", "make train-embedded"):
        assert piece in card
    assert (FOLDER / "samples.png").is_file()
    assert (FOLDER / "loss.png").is_file()
