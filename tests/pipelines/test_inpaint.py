"""InpaintPipeline against StableDiffusionInpaintPipeline, bit for bit."""

import re
import warnings

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from pipelines.inpaint import InpaintPipeline
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, ModelError
from tests.pipelines.against import assert_same, generators
from tests.tiny import tiny_unet

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, 1, 32, 32)
MASK[..., 8:24, 8:24] = 1
PICTURE = Image.fromarray((np.random.RandomState(0).rand(37, 50, 3) * 255).astype("uint8"))
MASK_PICTURE = Image.fromarray((MASK[0, 0].numpy() * 255).astype("uint8"))
SIZE = {"height": 32, "width": 32}
UNETS = {"any": tiny_unet(), "made for it": tiny_unet(in_channels=9)}


def both(parts):
    theirs = StableDiffusionInpaintPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    ours = InpaintPipeline(**parts)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    return ours, theirs


@pytest.mark.parametrize("unet", UNETS.values(), ids=UNETS)
@pytest.mark.parametrize(
    "call",
    [
        {"image": PIXELS, "mask_image": MASK},
        {"image": PICTURE, "mask_image": MASK_PICTURE, "strength": 0.6},
        # One picture each: of a single one diffusers reads the posterior by the first seed alone.
        {
            "image": PIXELS.repeat(2, 1, 1, 1),
            "mask_image": MASK.repeat(2, 1, 1, 1),
            "strength": 0.6,
            "seeds": (1, 2),
            "eta": 1.0,
        },
        {"image": PIXELS, "mask_image": MASK, "guidance_scale": 1.0, "output_type": "latent"},
        {"image": PIXELS, "mask_image": MASK, "latents": torch.randn(2, 4, 8, 8)},
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(components, unet, call):
    asked = {"prompt": PROMPTS, "num_inference_steps": 3, **SIZE}
    assert_same(*both(components | {"unet": unet}), **asked, **call)


@pytest.mark.parametrize("unet", UNETS.values(), ids=UNETS)
@pytest.mark.parametrize("name", ["euler a", "dpm++ 2m", "heun"])
def test_samplers_equal_diffusers(components, unet, name):
    named = build_scheduler(name, components["scheduler"].config)
    parts = components | {"unet": unet, "scheduler": named}
    call = {"image": PIXELS, "mask_image": MASK, "strength": 0.8}
    assert_same(*both(parts), prompt=PROMPTS[0], **SIZE, **call)


def test_a_crop_around_the_mask_equals_diffusers(components):
    large, mask = PICTURE.resize((64, 64)), MASK_PICTURE.resize((64, 64))
    call = {"image": large, "mask_image": mask, "padding_mask_crop": 4, "num_inference_steps": 3}
    results = [
        pipe(prompt=PROMPTS[0], generator=generators((1,)), **SIZE, **call).images[0]
        for pipe in both(components)
    ]
    assert results[0].size == (64, 64)
    assert results[0].tobytes() == results[1].tobytes()


def test_outside_the_mask_the_latents_are_the_pictures(components):
    pipe, _ = both(components)
    asked = {"num_inference_steps": 4, "output_type": "latent", **SIZE}
    clean = pipe.vae.encode(PIXELS * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    drawn = pipe(PROMPTS[0], image=clean, mask_image=MASK, **asked).images
    outside = torch.nn.functional.interpolate(MASK, size=(8, 8)) < 0.5
    assert torch.equal(drawn * outside, clean * outside)
    assert not torch.equal(drawn, clean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image": None}, "Got image of type NoneType"),
        ({"mask_image": 3}, "Got mask_image of type int"),
        ({"strength": -1}, "Got strength=-1"),
        ({"height": 33}, "Got height=33.*the nearest are 32 and 36"),
        ({"padding_mask_crop": 4}, "needs one Pillow image, one Pillow mask"),
    ],
)
def test_bad_input_is_refused_with_what_was_given_and_expected(components, call, message):
    pipe, _ = both(components)
    with pytest.raises(ArgumentError, match=message):
        pipe(**{"prompt": "a cat", "image": PIXELS, "mask_image": MASK, **SIZE} | call)


def test_a_unet_of_other_channels_is_refused(components):
    pipe, _ = both(components | {"unet": tiny_unet(in_channels=7)})
    with pytest.raises(ModelError, match=r"reads 7 channels.*4 .any model. or 9"):
        pipe("a cat", image=PIXELS, mask_image=MASK, **SIZE)


@pytest.mark.filterwarnings("ignore:The mask is black all over")
def test_a_crop_around_nothing_is_refused(components):
    pipe, _ = both(components)
    black = Image.new("L", PICTURE.size)
    with pytest.raises(ArgumentError, match="mask_image that is black everywhere"):
        pipe("a cat", image=PICTURE, mask_image=black, padding_mask_crop=4, **SIZE)
    with pytest.raises(ArgumentError, match="Got padding_mask_crop=-1"):
        pipe("a cat", image=PICTURE, mask_image=black, padding_mask_crop=-1, **SIZE)


@pytest.mark.parametrize("below", ["black", "white"])
def test_where_a_mask_is_clear_the_picture_stays_whatever_colour_lies_below(components, below):
    layer = Image.new("RGB", MASK_PICTURE.size, below)
    layer.paste("white", mask=MASK_PICTURE)
    layer.putalpha(MASK_PICTURE)
    asked = {"num_inference_steps": 2, "output_type": "latent", "image": PICTURE, **SIZE}
    pipe = InpaintPipeline(**components)
    drawn = [
        pipe("a cat", mask_image=mask, generator=generators((1,)), **asked).images
        for mask in (layer, [layer], MASK_PICTURE)
    ]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_mask_without_transparency_is_read_as_diffusers_reads_it(components, mode):
    mask = MASK_PICTURE.convert(mode)
    call = {"image": PICTURE, "mask_image": mask, "num_inference_steps": 1}
    assert_same(*both(components), prompt=PROMPTS[0], **SIZE, **call)


def hole():
    picture = PICTURE.convert("RGBA")
    picture.putalpha(Image.eval(MASK_PICTURE.resize(PICTURE.size), lambda value: 255 - value))
    return picture


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (50, 37), 255), "white all over, so the whole picture is drawn anew"),
        (Image.new("L", (50, 37), 0), "black all over, so nothing is drawn anew: paint white"),
        (Image.new("RGBA", (50, 37), (255, 255, 255, 0)), "black all over.*clear counts as black"),
        (torch.ones_like(MASK), "white all over"),
        (np.zeros((1, 32, 32, 1), dtype=np.float32), "black all over"),
        (hole(), "looks like a picture with a clear hole.*make a mask of it: python -c"),
    ],
    ids=["white", "black", "clear", "white tensor", "black array", "hole"],
)
def test_a_mask_that_may_not_be_meant_is_said_once(components, mask, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        InpaintPipeline(**components)(
            "a cat", image=PICTURE, mask_image=mask, num_inference_steps=1, **SIZE
        )
    (said,) = [str(one.message) for one in caught if "The mask" in str(one.message)]
    assert re.search(message, said)


def test_a_mask_of_several_channels_is_refused(components):
    pipe = InpaintPipeline(**components)
    with pytest.raises(ArgumentError, match="mask_image with 4 channels, expected one: white is 1"):
        pipe("a cat", image=PIXELS, mask_image=np.zeros((1, 32, 32, 4)), **SIZE)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_an_array_with_its_channels_last_is_refused_and_not_read_as_a_mask_a_row(
    components, channels
):
    pipe = InpaintPipeline(**components)
    mask = np.ones((32, 32, channels), dtype=np.float32)
    with pytest.raises(ArgumentError, match="Got 32 masks in mask_image for 1 image: give one"):
        pipe("a cat", image=PICTURE, mask_image=mask, num_inference_steps=1, **SIZE)
    with pytest.raises(ArgumentError, match="Got 2 masks in mask_image for 3 images"):
        pipe(["a cat"] * 3, image=PICTURE, mask_image=[MASK_PICTURE] * 2, **SIZE)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_truth_values_are_a_mask(components, as_tensor):
    asked = {"image": PICTURE, "num_inference_steps": 1, "output_type": "latent", **SIZE}
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16] = True
    drawn = [
        InpaintPipeline(**components)(
            "a cat", mask_image=one, generator=generators((1,)), **asked
        ).images
        for one in (torch.from_numpy(mask) if as_tensor else mask, mask.astype(np.float32))
    ]
    assert torch.equal(*drawn)
