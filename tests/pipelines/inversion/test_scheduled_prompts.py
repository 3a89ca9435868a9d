"""Prompts that change during the run are inverted at each noise level with that level's text."""

import warnings
from collections import defaultdict
from contextlib import contextmanager
from itertools import product

import pytest
import torch
from PIL import Image

from pipelines.inversion.reordered_prompt import StepReorderedPrompt, reorder_prompt_steps
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.text.prompt import Prompt
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components

STEPS = 4
TEXTS = ("[a cat:a dog:0.25]", "[a cat|a dog]", "a [red:blue:3] cat")
METHODS = ("ddim:iterations=2", "direct:iterations=1", "bdia")


@pytest.fixture(scope="module")
def pipe():
    made = PromptEditPipeline(**tiny_sd_components())
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def recorded_texts(pipe):
    """Yield timestep -> the embeddings (T, E) of the prompt that the denoiser is given there."""
    texts = defaultdict(list)

    def record(module, arguments, named):
        timestep = named["timestep"] if "timestep" in named else arguments[1]
        texts[float(timestep)].append(named["encoder_hidden_states"][-1].clone())

    watching = pipe.unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield texts
    finally:
        watching.remove()


@pytest.mark.parametrize(
    ("method", "text"),
    sweep(
        product(METHODS, TEXTS),
        quick=list(zip(METHODS, TEXTS, strict=True)),  # the text does not know the method
    ),
)
def test_a_noise_level_has_the_same_text_on_the_way_up_and_down(pipe, text, method):
    prompt = Prompt(text)
    with recorded_texts(pipe) as drawn:
        TextToImagePipeline.__call__(
            pipe, prompt, num_inference_steps=STEPS, output_type="latent", guidance_scale=3.0
        )
    assert len({bytes(found[0].numpy()) for found in drawn.values()}) == 2
    with recorded_texts(pipe) as inverted, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Image.new("RGB", (32, 32), "blue")
        pipe.invert(picture, prompt, method, num_inference_steps=STEPS, guidance_scale=3.0, seed=1)
    assert inverted.keys() == drawn.keys()
    for timestep, found in inverted.items():
        assert all(torch.equal(one, drawn[timestep][0]) for one in found), timestep


def test_each_step_has_the_text_of_the_step_that_it_stands_for():
    prompt = Prompt("[a cat:a dog:0.25]")
    order = (3, 3, 2, 2, 1, 1, 0, 0)
    up = reorder_prompt_steps(prompt, order, STEPS)
    assert [up.texts_at_step(step, 8) for step in range(8)] == [
        prompt.texts_at_step(level, STEPS) for level in order
    ]
    assert up.list_change_steps(8) == (0, 6)
    assert up.texts_at_step(0, 1) == prompt.texts_at_step(0, 1)
    assert up.list_change_steps(STEPS) == prompt.list_change_steps(STEPS)
    assert isinstance(up, StepReorderedPrompt)
    assert reorder_prompt_steps("a cat", [1, 0], 2) == "a cat"
    assert reorder_prompt_steps(None, [1, 0], 2) is None
