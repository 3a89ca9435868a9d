"""SDXL's two text encoders, pooled embeddings and sizes, against diffusers' pipelines."""

import json

import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

import t2i
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from tests.pipelines.against import assert_same
from tests.tiny import tiny_sdxl_components

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]


@pytest.fixture(scope="module")
def parts():
    return tiny_sdxl_components()


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS, "negative_prompt": ["a dog", "blue"], "guidance_rescale": 0.5},
        {"prompt": PROMPTS[0], "negative_prompt": "", "num_images_per_prompt": 2},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "seeds": (4, 5), "output_type": "latent"},
        {"prompt": PROMPTS[0], "prompt_2": "a dog", "negative_prompt": "b", "clip_skip": 1},
        {"prompt": PROMPTS[0], "original_size": (64, 80), "crops_coords_top_left": (3, 4)},
        {
            "prompt": PROMPTS[0],
            "target_size": (40, 40),
            "negative_original_size": (9, 9),
            "negative_target_size": (8, 8),
        },
        {"prompt": PROMPTS[0], "height": 16, "width": 48},
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_of_sdxl_means_what_it_means_in_diffusers(parts, call):
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    assert_same(TextToImagePipeline(**parts), theirs, num_inference_steps=2, **call)


@pytest.mark.parametrize("name", ["euler", "euler a", "dpm++ 2m karras"])
def test_samplers_equal_diffusers(parts, name):
    parts = parts | {"scheduler": build_scheduler(name, parts["scheduler"].config)}
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    assert_same(TextToImagePipeline(**parts), theirs, prompt=PROMPTS)


def test_without_zeros_an_absent_negative_prompt_is_the_empty_one(parts):
    settings = {"force_zeros_for_empty_prompt": False}
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False, **settings)
    call = {"prompt": PROMPTS[0], "num_inference_steps": 2}
    silent = assert_same(TextToImagePipeline(**parts, **settings), theirs, **call)
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    told_zeros = assert_same(TextToImagePipeline(**parts), theirs, **call)
    assert not torch.equal(silent, told_zeros)


def test_a_picture_and_a_mask_equal_diffusers(parts):
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    theirs = StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    assert_same(ImageToImagePipeline(**parts), theirs, prompt=PROMPTS[0], image=image, strength=0.6)
    theirs = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    asked = {"image": image, "mask_image": mask, "strength": 0.7, "height": 32, "width": 32}
    assert_same(InpaintPipeline(**parts), theirs, prompt=PROMPTS[0], **asked)


def test_embeddings_of_ones_own_equal_diffusers(parts):
    pipe = TextToImagePipeline(**parts)
    told = pipe.encode_prompt(PROMPTS, negative_prompt="a dog")
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    given = dict(zip(names, told, strict=True))
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    assert_same(pipe, theirs, num_inference_steps=2, **given)
    with pytest.raises(ArgumentError, match="also reads a pooled embedding"):
        pipe(prompt_embeds=told[0], guidance_scale=1.0)


def test_a_saved_folder_opens_here_and_in_diffusers(parts, tmp_path):
    ours = TextToImagePipeline(**parts)
    ours.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    theirs = StableDiffusionXLPipeline.from_pretrained(tmp_path, add_watermarker=False)
    assert_same(t2i.load(str(tmp_path)), theirs, prompt=PROMPTS[0], num_inference_steps=2)
