"""A drawn picture, enlarged and drawn anew a little, by whatever pipeline drew it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.upscaling import upscale
from t2i.errors import ArgumentError

PROMPT = "a red apple"
CALL = {"num_inference_steps": 5, "guidance_scale": 3.0}


def seeded():
    return torch.Generator().manual_seed(3)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_image_to_image_on_the_enlarged_picture(components):
    pipe = quiet(TextToImagePipeline(**components))
    drawn = pipe(PROMPT, height=32, width=48, generator=seeded(), **CALL).images
    made = upscale(pipe, drawn, PROMPT, factor=1.5, strength=0.4, generator=seeded(), **CALL)
    large = drawn[0].resize((72, 48), Image.Resampling.LANCZOS)
    changer = quiet(ImageToImagePipeline(**components))
    expected = changer(PROMPT, image=large, strength=0.4, generator=seeded(), **CALL)
    assert made.images[0].size == (72, 48)
    assert np.array_equal(made.images[0], expected.images[0])


def test_what_every_pipeline_draws_can_be_enlarged(components):
    editor = quiet(PromptEditPipeline(**components))
    drawn = editor("a cat", "a dog", seed=3, height=32, width=32, **CALL).images
    made = upscale(editor, drawn, ["a cat", "a dog"], strength=0.4, **CALL)
    assert [picture.size for picture in made.images] == [(64, 64), (64, 64)]


@pytest.mark.parametrize("factor", [1, 0, -2, 4.5, float("nan"), True, "2"])
def test_a_factor_out_of_bounds_is_refused(components, factor):
    pipe = TextToImagePipeline(**components)
    with pytest.raises(ArgumentError, match=re.escape(f"Got factor {factor}: expected a number")):
        upscale(pipe, Image.new("RGB", (32, 32)), PROMPT, factor=factor)


@pytest.mark.parametrize("image", [None, [], "x.png"], ids=str)
def test_what_is_no_picture_is_refused(components, image):
    with pytest.raises(ArgumentError, match="expected a Pillow image, or a list of them"):
        upscale(TextToImagePipeline(**components), image, PROMPT)
