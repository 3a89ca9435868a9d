"""Every sampler by name, in every pipeline: it takes every step of its own, or is refused."""

import re

import pytest
import torch
from PIL import Image

import t2i
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import attend
from t2i.denoiser.schedulers import SAMPLERS, ZERO_SNR_SCHEDULERS, build_scheduler
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError
from t2i.scenes.caption_matcher import CaptionMatcher
from tests.sweeps import sweep
from tests.tiny import tiny_scheduler, tiny_sd_components

LEAST = 0.5
"""How well a picture must fit its words (t2i.scenes.caption_matcher). Of three prompts each, those
by eye as good as the default's had 0.57 and more, smeared ones down to 0: docs/decisions.md."""
PICTURE = Image.new("RGB", (32, 32), "teal")
MASK = Image.new("L", (32, 32))
MASK.paste(255, (0, 0, 16, 32))
ZERO_SNR_CONFIG = tiny_scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").config
LIKE_OTHERS = {"tcd", "euler", "dpm++ 2m sde", "dpm++ 3m", "dpm++ 3m sde", "euler exponential"}
"""Drawn by the default run with "lcm", "euler karras" and "dpm++ 2m": one of each solver."""
KINDS = ["text", "image", "later", "inpaint", "edit"]


@pytest.fixture(scope="module")
def embedded():
    pipe = t2i.load("embedded")
    pipe.set_progress_bar_config(disable=True)
    return pipe, pipe.scheduler.config


@pytest.fixture(scope="module")
def agreement():
    return CaptionMatcher.load()


# The fewest steps are the hardest to draw well in.
@pytest.mark.parametrize("steps", sweep((5, 10, 20), quick=[5]))
@pytest.mark.parametrize("name", sweep(SAMPLERS, quick=SAMPLERS.keys() - LIKE_OTHERS))
def test_every_sampler_draws_what_is_asked_for_or_is_refused_in_words(
    embedded, agreement, name, steps
):
    pipe, config = embedded
    prompt = "a red apple"
    said = ""
    try:
        pipe.scheduler = build_scheduler(name, config)
        picture = pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7),
        ).images[0]
    except ArgumentError as error:
        said = str(error)
    if said:
        plain = name.removesuffix(" karras").removesuffix(" exponential")
        words = "divides by the last step's signal, which is zero in this model"
        if SAMPLERS[name].class_name in ZERO_SNR_SCHEDULERS:
            assert plain != name
            words = f"smeared pictures .* Choose '{re.escape(plain)}', its plain spacing, or at le"
        assert re.search(words, said)
        return
    score = agreement.compute_paired_similarities([picture], [prompt]).item()
    assert score > LEAST, f"{name} in {steps} steps fits {score:.2f}"


def calls(parts):
    def draw(kind, **given):
        pipe = kind(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe, lambda **call: pipe(**given | call)

    source = {"source": "a cat", "target": "a dog", "seed": 1}
    return {
        "text": draw(TextToImagePipeline, prompt="a cat"),
        "image": draw(ImageToImagePipeline, prompt="a cat", image=PICTURE, strength=1.0),
        "later": draw(ImageToImagePipeline, prompt="a cat", image=PICTURE, strength=0.3),
        "inpaint": draw(InpaintPipeline, prompt="a cat", image=PICTURE, mask_image=MASK),
        "edit": draw(PromptEditPipeline, **source),
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("dpm++ 2m karras", kind) for kind in KINDS),
        ("dpm++ 3m sde exponential", "text"),
        ("unipc karras", "text"),
    ],
)
def test_a_run_takes_every_step_also_where_several_fall_on_one_timestep(name, kind):
    parts = tiny_sd_components() | {"scheduler": build_scheduler(name, ZERO_SNR_CONFIG)}
    pipe, call = calls(parts)[kind]
    pixels = call(num_inference_steps=20, output_type="pt").images
    stepped = pipe.scheduler
    assert len(stepped.timesteps.unique()) < len(stepped.timesteps) == 20
    assert stepped.step_index == 20
    assert torch.isfinite(pixels).all()


def test_timesteps_and_sigmas_of_ones_own_are_all_taken():
    parts = tiny_sd_components()
    for given, name in (
        ({"timesteps": [999, 998, 600, 300, 0]}, "dpm++ 2m"),
        ({"sigmas": [4096.0, 3000.0, 10.0, 1.0, 0.3]}, "euler"),
    ):
        parts["scheduler"] = build_scheduler(name, ZERO_SNR_CONFIG)
        pipe, call = calls(parts)["text"]
        assert torch.isfinite(call(output_type="pt", **given).images).all()
        assert pipe.scheduler.step_index == len(pipe.scheduler.timesteps)


def test_a_probe_meets_every_step_of_such_a_run():
    parts = tiny_sd_components() | {
        "scheduler": build_scheduler("dpm++ 2m karras", ZERO_SNR_CONFIG)
    }
    pipe, call = calls(parts)["text"]
    with attend(pipe) as attn:
        attn.probe("cat")
        call(num_inference_steps=20, output_type="latent")
    assert "20 of 20" in attn.report() or "20 steps" in attn.report()


def test_a_spacing_that_leaves_too_few_steps_is_refused_with_the_plain_one_and_enough_steps():
    built = build_scheduler("dpm++ 2m sde karras", ZERO_SNR_CONFIG)
    with pytest.raises(
        ArgumentError,
        match=r"At 10 steps 'dpm\+\+ 2m sde karras' draws smeared pictures .* leaves 2 steps .*"
        r"expected 4. Choose 'dpm\+\+ 2m sde', its plain spacing, or at least (\d+) steps",
    ) as refused:
        set_timesteps(built, 10, torch.device("cpu"))
    enough = int(str(refused.value).split()[-2])
    assert set_timesteps(built, enough, torch.device("cpu")) == enough
    ordinary = build_scheduler("dpm++ 2m sde karras", tiny_scheduler().config)
    assert set_timesteps(ordinary, 3, torch.device("cpu")) == 3
