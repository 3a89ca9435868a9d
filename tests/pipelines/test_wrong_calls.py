"""Whatever is wrong in a call of a pipeline is an error of ours that says what was expected."""

import math
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.attention import Refine, Replace, attend
from t2i.errors import ArgumentError, T2IError
from tests.attention.edits.test_methods import EVERY
from tests.denoiser.tiny_models import kandinsky_components, prior_components
from tests.tiny import diffusers_pipeline, tiny_sd_components, tiny_sdxl_components

FEW_STEPS = {"num_inference_steps": 1, "output_type": "latent"}
PICTURE = Image.new("RGB", (32, 32), "teal")
MASK = Image.new("L", (32, 32), "white")
JUNK = {
    "nan": math.nan,
    "inf": math.inf,
    "minus": -1,
    "huge": 10**30,
    "half": 2.5,
    "half a character": "\ud800cat",
    "bytes": b"x",
    "empty": [],
    "none in a list": [None],
    "dict": {"a": 1},
    "object": object(),
    "class": object,
    "true": True,
    "pair": (1, 2),
    "no values": torch.zeros(0),
    "nan tensor": torch.full((1, 4, 8, 8), math.nan),
    "complex": torch.zeros(1, 4, 8, 8, dtype=torch.complex64),
    "whole numbers": torch.zeros(1, 4, 8, 8, dtype=torch.long),
    "array": np.zeros((2, 2)),
    "letters": np.array([["a"]]),
    "dot": Image.new("RGB", (1, 1)),
    "function": lambda *_, **__: None,
}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def calls():
    parts, sdxl = tiny_sd_components(), tiny_sdxl_components()
    prior = {f"prior_{name}": part for name, part in prior_components().items()}
    prompt = {"prompt": "a cat"} | FEW_STEPS
    made = {
        "text": (TextToImagePipeline(**parts), prompt),
        "image": (ImageToImagePipeline(**parts), prompt | {"image": PICTURE, "strength": 1.0}),
        "inpaint": (InpaintPipeline(**parts), prompt | {"image": PICTURE, "mask_image": MASK}),
        "edit": (
            PromptEditPipeline(**parts),
            {"source": "a cat", "target": "a dog", "self_replace": None} | FEW_STEPS,
        ),
        "sdxl": (TextToImagePipeline(**sdxl), prompt),
        "unclip": (
            UnclipPipeline(**kandinsky_components(), **prior),
            prompt | {"prior_num_inference_steps": 2},
        ),
    }
    return {name: (quiet(pipe), call) for name, (pipe, call) in made.items()}


SHARED = {*signature(TextToImagePipeline.__call__).parameters}
ARGUMENTS = [
    (kind, name)
    for kind, pipeline in (
        ("text", TextToImagePipeline),
        ("image", ImageToImagePipeline),
        ("inpaint", InpaintPipeline),
        ("edit", PromptEditPipeline),
        ("unclip", UnclipPipeline),
    )
    for name in signature(pipeline.__call__).parameters
    if name != "self" and (kind in ("text", "edit", "unclip") or name not in SHARED)
] + [
    ("sdxl", name)
    for name in SHARED
    if any(part in name for part in ("_2", "size", "crops", "pooled"))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), sorted(ARGUMENTS))
def test_junk_in_any_argument_is_used_or_refused_by_an_error_of_ours(calls, kind, name):
    pipe, call = calls[kind]
    for what, junk in JUNK.items():
        try:
            pipe(**call | {name: junk})
        except T2IError:
            continue
        except Exception as error:
            pytest.fail(f"{name} = {what}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds"])
@pytest.mark.parametrize(
    "junk",
    [
        torch.zeros(1, 16, 32, dtype=torch.complex64),
        torch.zeros(1, 16, 32, dtype=torch.int32),
        torch.zeros(0, 16, 32),
        torch.zeros(1, 0, 32),
    ],
    ids=["complex", "whole numbers", "no prompts", "no tokens"],
)
def test_embeddings_of_the_right_width_may_still_be_none(calls, name, junk):
    pipe, _ = calls["text"]
    given = dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), torch.zeros(1, 16, 32))
    with pytest.raises(ArgumentError, match=f"Got {name} of shape .*floating point"):
        pipe(**given | {name: junk} | FEW_STEPS)


@pytest.mark.parametrize(
    "picture", [Image.new("RGB", (0, 0)), Image.new("RGB", (1, 1)), torch.zeros(1, 3, 8, 8).long()]
)
def test_a_picture_that_a_library_refuses_is_refused_with_what_is_expected(calls, picture):
    pipe, call = calls["image"]
    with pytest.raises(ArgumentError, match=r"The image cannot be used \(.*\): expected images"):
        pipe(**call | {"image": picture})


# callbacks

RETURNED = [
    (None, "returned NoneType, expected the dict of tensors .* `return callback_kwargs`"),
    ("junk", "returned str, expected the dict"),
    ({"latents": None}, "returned latents of type NoneType, expected a tensor of shape"),
    ({"latents": torch.zeros(1, 4, 8, 9)}, r"latents of shape \(1, 4, 8, 9\) .* as it was given"),
    ({"latents": torch.zeros(2, 4, 8, 8)}, r"latents of shape \(2, 4, 8, 8\)"),
    ({"latents": torch.zeros(1, 4, 8, 8, dtype=torch.long)}, "torch.int64, .* torch.float32"),
    ({"latents": torch.zeros(1, 4, 8, 8).half()}, "torch.float16, expected .* torch.float32"),
    ({"latents": torch.full((1, 4, 8, 8), math.nan)}, "latents with values that are no finite"),
    ({"prompt_embeds": torch.zeros(2, 16, 5)}, r"prompt_embeds of shape \(2, 16, 5\)"),
    ({"prompt_embeds": "junk"}, "prompt_embeds of type str"),
    ({"prompt_embeds": torch.full((2, 16, 32), math.inf)}, "prompt_embeds with values that are no"),
]


@pytest.mark.parametrize(("returned", "words"), RETURNED)
def test_what_a_callback_returns_is_checked(calls, returned, words):
    pipe, call = calls["text"]
    with pytest.raises(ArgumentError, match=f"callback_on_step_end {words}|{words}"):
        pipe(**call, callback_on_step_end=lambda *_: returned)


def test_kandinskys_callbacks_are_checked_too(calls):
    pipe, call = calls["unclip"]
    for returned in (None, {"image_embeds": torch.zeros(3)}, {"image_embeds": 1}):
        with pytest.raises(ArgumentError, match="callback_on_step_end returned"):
            pipe(**call, callback_on_step_end=lambda *_, it=returned: it)


def test_sdxls_tensors_of_a_callback_are_checked_too(calls):
    pipe, call = calls["sdxl"]
    with pytest.raises(ArgumentError, match=r"returned add_time_ids of shape \(2, 5\)"):
        pipe(**call, callback_on_step_end=lambda *_: {"add_time_ids": torch.zeros(2, 5)})


def test_a_callback_that_takes_no_step_is_refused_before_anything_is_drawn(calls):
    pipe, call = calls["text"]
    with pytest.raises(ArgumentError, match=r"cannot be called with \(pipeline, step, timestep"):
        pipe(**call, callback_on_step_end=lambda step: {})
    with pytest.raises(ArgumentError, match="callback_on_step_end of type int, expected a functio"):
        pipe(**call, callback_on_step_end=7)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"height": math.nan}, "Got height=nan, but this model needs a multiple of 4: 4 is the sm"),
        ({"clip_skip": 2.5}, "Got clip_skip=2.5, expected a whole number from 0 on"),
        ({"return_dict": None}, "Got return_dict=None, expected True or False"),
        ({"generator": [None]}, "generator of type NoneType, expected a torch.Generator"),
        ({"guidance_scale": 10**30}, "Got guidance_scale=10+, expected a finite number"),
        ({"num_images_per_prompt": True}, "num_images_per_prompt=True, expected a whole number"),
        (
            {"callback_on_step_end_tensor_inputs": None},
            "of type NoneType, expected a list of names",
        ),
        ({"output_type": 3}, "Unknown output_type 3"),
    ],
)
def test_what_is_wrong_is_said(calls, argument, words):
    pipe, call = calls["text"]
    with pytest.raises(ArgumentError, match=words):
        pipe(**call | argument)


def edited(pipe, edit, prompts=None):
    with attend(pipe, prompts=prompts) as attn:
        attn.edit(edit)
        pipe(["a cat", "a dog"], callback_on_step_end=attn.on_step_end, **FEW_STEPS)


def test_edits_of_prompts_that_nobody_told_are_refused_in_words():
    pipe = diffusers_pipeline(tiny_sd_components())
    for edit in (Replace(target=1), Refine(target=1)):
        with pytest.raises(ArgumentError, match="Cannot compare prompts that are not known"):
            edited(pipe, edit)
    with pytest.raises(ArgumentError, match="Got target=4, but this run has 2 prompts"):
        edited(pipe, Replace(target=4), prompts=["a cat", "a dog"])


def test_every_kind_of_edit_on_a_pipeline_of_diffusers_acts_or_is_refused_in_words():
    pipe = diffusers_pipeline(tiny_sd_components())
    for edit in EVERY:
        try:
            edited(pipe, edit)
        except T2IError:
            continue
