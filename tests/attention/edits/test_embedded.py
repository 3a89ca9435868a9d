"""On the embedded model, edits do to pictures what they say."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2i
from t2i.attention import AttendAndExcite, Region, Regions, attend
from t2i.attention.edits.regions import Box

LEFT, RIGHT = (0.0, 0.2, 0.5, 0.8), (0.5, 0.2, 1.0, 0.8)


@pytest.fixture(scope="module")
def pipe():
    pipe = t2i.load("embedded")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: str, edit: Any, seeds: tuple[int, ...], steps: int) -> list[Any]:
    with attend(pipe) as attn:
        attn.edit(edit)
        drawn: list[Any] = pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=4.0,
            num_images_per_prompt=len(seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images
    return drawn


def centre(image: Image.Image, colour: str) -> float:
    """How far from the left what is red, or orange, has its middle: 0 to 1."""
    red, green, blue = (np.asarray(image, dtype=np.float64) / 255).transpose(2, 0, 1)
    of_apple = (red > 0.6) & (green < 0.35)
    of_cat = (red > 0.8) & (green > 0.5) & (blue < 0.45)
    held = {"red": of_apple, "orange": of_cat}[colour]
    assert held.sum() > 200, f"there is no {colour} thing"
    return float(np.median(held.nonzero()[1]) / image.width)


@pytest.mark.slow
@pytest.mark.parametrize(("apple", "cat", "side"), [(LEFT, RIGHT, -1), (RIGHT, LEFT, 1)])
def test_regions_put_things_where_they_belong(pipe, apple: Box, cat: Box, side: int) -> None:
    boxes = [Region(words="red apple", box=apple), Region(words="cat", box=cat)]
    regions = Regions(boxes, strength=8.0)  # 3 leaves one seed of three to its own layout
    for image in draw(pipe, "a red apple and a cat", regions, (1, 2, 3), steps=6):
        apart = centre(image, "red") - centre(image, "orange")
        assert side * apart > 0.1, apart


@pytest.mark.slow
def test_words_that_would_be_neglected_are_attended_to_more(pipe) -> None:
    def last_loss(scale: float) -> float:
        """Mean loss of two images at the last step of the edit."""
        measured: dict[int, float] = {}

        class Noting(AttendAndExcite):
            def compute_loss_and_gradient(self, latents_BCHW, denoiser_pass, look):
                loss_B, gradient_BCHW = super().compute_loss_and_gradient(
                    latents_BCHW, denoiser_pass, look
                )
                measured[denoiser_pass.step] = loss_B.mean().item()
                return loss_B, gradient_BCHW

        edit = Noting(("cat", "dog", "star", "fish"), scale=scale, thresholds=())
        draw(pipe, "a cat and a dog and a star and a fish", edit, (2, 8), steps=6)
        return measured[max(measured)]

    unmoved, moved = last_loss(1e-9), last_loss(20.0)
    assert unmoved > 0.5
    assert moved < 0.75 * unmoved, (unmoved, moved)
