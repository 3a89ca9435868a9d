"""ImageToImagePipeline against StableDiffusionImg2ImgPipeline, bit for bit."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from pipelines.image_to_image import ImageToImagePipeline
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from tests.pipelines.against import assert_same, generators
from tests.tiny import tiny_small_vae

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BYTES = (np.random.RandomState(0).rand(37, 50, 3) * 255).astype("uint8")
PICTURE = Image.fromarray(BYTES)


def theirs(parts):
    return StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@pytest.fixture
def pipe(components):
    pipe = ImageToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "call",
    [
        {"image": PIXELS, "strength": 0.3},
        {"image": PIXELS, "strength": 0.6, "output_type": "latent"},
        {"image": PICTURE, "strength": 0.8},
        {"image": PICTURE, "strength": 1.0, "guidance_scale": 1.0},
        {"image": [PICTURE, PICTURE.rotate(180)], "strength": 0.5},
        {"image": BYTES[None] / 255, "strength": 0.5},
        {"image": torch.randn(1, 4, 8, 8), "strength": 0.5},
        {"image": PIXELS, "strength": 0.6, "eta": 1.0, "seeds": (1, 2)},
        {
            "image": PIXELS,
            "strength": 0.6,
            "num_images_per_prompt": 2,
            "negative_prompt": ["a", "b"],
        },
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(components, call):
    assert_same(ImageToImagePipeline(**components), theirs(components), prompt=PROMPTS, **call)


@pytest.mark.parametrize("name", ["euler a", "heun", "dpm++ 2m", "pndm", "unipc", "lcm"])
def test_every_sampler_starts_in_mid_schedule_as_in_diffusers(components, name):
    parts = components | {"scheduler": build_scheduler(name, components["scheduler"].config)}
    call = {"prompt": PROMPTS[0], "image": PIXELS, "strength": 0.7, "num_inference_steps": 6}
    assert_same(ImageToImagePipeline(**parts), theirs(parts), **call)


def test_a_batch_equals_its_pictures_one_by_one(pipe):
    asked = {"strength": 0.6, "num_inference_steps": 4, "eta": 1.0, "output_type": "latent"}
    pictures = [PICTURE, PICTURE.rotate(180)]
    batch = pipe(PROMPTS, image=pictures, generator=generators((7, 8)), **asked).images
    for row, (prompt, image, seed) in enumerate(zip(PROMPTS, pictures, (7, 8), strict=True)):
        single = pipe(prompt, image=image, generator=generators((seed,)), **asked).images
        assert (batch[row] - single[0]).abs().max() < 5e-6 * single.abs().max()


def test_a_tiny_autoencoder_serves(components):
    parts = components | {"vae": tiny_small_vae()}
    pipe = ImageToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(PROMPTS[0], image=PICTURE, num_inference_steps=3).images[0]
    assert picture.size == (48, 36)


def test_less_strength_leaves_more_of_the_picture(pipe):
    asked = {"num_inference_steps": 20, "guidance_scale": 1.0, "output_type": "latent"}
    clean = pipe("a cat", image=PIXELS, strength=0.05, generator=generators((1,)), **asked).images
    away = [
        (
            pipe("a cat", image=PIXELS, strength=s, generator=generators((1,)), **asked).images
            - clean
        )
        .abs()
        .mean()
        for s in (0.1, 0.5, 0.9)
    ]
    assert away == sorted(away)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image": None}, "Got image of type NoneType.*expected a Pillow image"),
        ({"image": "cat.png"}, "Got image of type str"),
        ({"image": PIXELS, "strength": 1.5}, "Got strength=1.5, expected a number from 0"),
        ({"image": PIXELS, "strength": float("nan")}, "Got strength=nan"),
        (
            {"image": PIXELS, "strength": 0.2, "num_inference_steps": 4},
            "less than one step is left",
        ),
        ({"image": torch.rand(3, 3, 32, 32), "prompt": PROMPTS}, "Got 3 images for 2 to generate"),
    ],
)
def test_bad_input_is_refused_with_what_was_given_and_expected(pipe, call, message):
    with pytest.raises(ArgumentError, match=message):
        pipe(**{"prompt": "a cat", "num_inference_steps": 4} | call)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK"])
def test_pictures_of_every_mode_are_read(pipe, mode):
    asked = {"num_inference_steps": 2, "strength": 1.0, "output_type": "latent"}
    drawn = pipe("a cat", image=PICTURE.convert(mode), **asked).images
    assert torch.isfinite(drawn).all()


def test_what_is_transparent_is_white(pipe):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    asked = {"num_inference_steps": 4, "strength": 0.5, "output_type": "latent"}
    drawn = [
        pipe("a cat", image=image, generator=generators((1,)), **asked).images
        for image in (clear, Image.new("RGB", (32, 32), "white"))
    ]
    assert torch.equal(*drawn)
