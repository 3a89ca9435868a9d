"""SDXL's refiner, and a run that two pipelines share, against diffusers' two pipelines chained."""

import json
from itertools import product

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
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from tests.aligned import aligned
from tests.denoiser.original_layout import write_sdxl
from tests.denoiser.tiny_models import xl_components, xl_folder
from tests.pipelines.against import assert_same, generators
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components, tiny_sdxl_components, tiny_small_vae, tiny_unet

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, 1, 32, 32)
MASK[..., 8:24, 8:24] = 1
SIZE = {"height": 32, "width": 32}
SILENT = {"force_zeros_for_empty_prompt": False}


@pytest.fixture(scope="module")
def base():
    return xl_components()


@pytest.fixture(scope="module")
def refiner():
    return xl_components(refiner=True)


def pair(refiner):
    theirs = StableDiffusionXLImg2ImgPipeline(
        **refiner, **SILENT, requires_aesthetics_score=True, add_watermarker=False
    )
    ours = ImageToImagePipeline(**refiner, **SILENT)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    return ours, theirs


@pytest.mark.parametrize(
    "call",
    [
        {"strength": 0.6},
        {"aesthetic_score": 9.0, "negative_aesthetic_score": 1.5},
        {"negative_prompt": ["a dog", "b"], "num_images_per_prompt": 2, "clip_skip": 1},
        {"original_size": (64, 80), "crops_coords_top_left": (3, 4), "target_size": (9, 9)},
        {"negative_original_size": (9, 9), "negative_crops_coords_top_left": (1, 2)},
        {"guidance_scale": 1.0, "seeds": (4, 5)},
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_of_the_refiner_means_what_it_means_in_diffusers(refiner, call):
    asked = {"prompt": PROMPTS, "image": PIXELS, "strength": 0.8, "num_inference_steps": 3}
    assert_same(*pair(refiner), **asked | call)


def test_the_score_is_heard(refiner):
    ours, _ = pair(refiner)
    asked = {"image": PIXELS, "num_inference_steps": 4, "output_type": "latent"}
    drawn = [
        ours("a cat", generator=generators((1,)), aesthetic_score=score, **asked).images
        for score in (6.0, 2.0)
    ]
    assert not torch.equal(*drawn)


def test_a_refiners_folder_opens_here_and_in_diffusers(tmp_path):
    # As published: diffusers writes whether the score is required.
    folder = xl_folder(tmp_path / "refiner", refiner=True)
    index = json.loads((folder / "model_index.json").read_text()) | SILENT
    index["requires_aesthetics_score"] = True
    (folder / "model_index.json").write_text(json.dumps(index))

    call = {"prompt": PROMPTS[0], "image": PIXELS, "strength": 0.6}
    theirs = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, add_watermarker=False)
    ours = ImageToImagePipeline.from_pretrained(folder)
    first = assert_same(ours, theirs, **call)

    ours.save_pretrained(tmp_path / "saved")
    theirs = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        tmp_path / "saved", add_watermarker=False
    )
    assert theirs.config.requires_aesthetics_score
    again = ImageToImagePipeline.from_pipe(t2i.load(str(tmp_path / "saved")))
    assert torch.equal(first, assert_same(again, theirs, **call))


def test_a_refiner_of_a_single_file_draws_as_its_folder(refiner, tmp_path):
    folder = xl_folder(tmp_path / "refiner", refiner=True)
    file = write_sdxl(tmp_path / "refiner.safetensors", refiner)
    drawn = [
        aligned(ImageToImagePipeline.from_pretrained(place, **options))(
            "a cat",
            image=PIXELS,
            num_inference_steps=4,
            generator=generators((1,)),
            output_type="latent",
        ).images
        for place, options in (
            (folder, SILENT),
            (file, {"config": folder}),
            (folder, {"force_zeros_for_empty_prompt": True}),
        )
    ]
    assert torch.equal(*drawn[:2])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_refiner_inpaints_as_in_diffusers(refiner):
    theirs = StableDiffusionXLInpaintPipeline(
        **refiner, **SILENT, requires_aesthetics_score=True, add_watermarker=False
    )
    call = {"image": PIXELS, "mask_image": MASK, "strength": 0.7, **SIZE}
    ours = InpaintPipeline(**refiner, **SILENT)
    assert_same(ours, theirs, prompt=PROMPTS[0], aesthetic_score=8.0, **call)


# a run in two shares


@pytest.mark.parametrize(
    ("name", "share"),
    sweep(
        [
            ("euler", 0.8),
            ("euler a", 0.5),
            ("ddim", 0.33),
            ("dpm++ 2m", 0.5),
            ("heun", 0.8),
            ("heun", 0.5),
        ],
        quick=[("euler a", 0.5), ("dpm++ 2m", 0.5), ("heun", 0.5)],
    ),
)
def test_base_and_refiner_share_a_run_as_in_diffusers(base, refiner, name, share):
    base = base | {"scheduler": build_scheduler(name, base["scheduler"].config)}
    refiner = refiner | {"scheduler": build_scheduler(name, refiner["scheduler"].config)}
    theirs = StableDiffusionXLPipeline(**base, add_watermarker=False)
    call = {"prompt": PROMPTS, "num_inference_steps": 7, "seeds": (1, 2)}
    latents = {"output_type": "latent", **call}
    left = assert_same(TextToImagePipeline(**base), theirs, denoising_end=share, **latents)
    assert_same(*pair(refiner), image=left, denoising_start=share, **call)
    assert_same(*pair(refiner), image=left, denoising_start=share, denoising_end=0.9, **latents)


@pytest.mark.parametrize(
    ("name", "channels"),
    sweep(
        product(["euler", "euler a", "heun"], [4, 9]),
        quick=[("euler a", 9), ("heun", 4)],
    ),
)
def test_inpainting_takes_a_share_of_a_run_as_in_diffusers(name, channels):
    parts = tiny_sdxl_components(in_channels=channels)
    parts |= {"scheduler": build_scheduler(name, parts["scheduler"].config)}
    theirs = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    ours = InpaintPipeline(**parts)
    call = {"prompt": PROMPTS, "num_inference_steps": 7, "mask_image": MASK, **SIZE}
    # 1 is our default, and StableDiffusionInpaintPipeline's; that of SDXL's is 0.9999.
    latents = {"output_type": "latent", "denoising_end": 0.6}
    left = assert_same(ours, theirs, image=PIXELS, strength=1.0, **call, **latents)
    assert_same(ours, theirs, image=PIXELS, strength=0.7, **call, **latents)
    if channels == 9:  # latents have no picture around the mask
        call["masked_image_latents"] = torch.randn(1, 4, 8, 8)
    assert_same(ours, theirs, image=left, denoising_start=0.6, **call)
    assert_same(ours, theirs, image=left, denoising_start=0.6, denoising_end=0.8, **call)


def test_inpainting_goes_on_from_pixels_too_as_in_diffusers():
    parts = tiny_sdxl_components()
    theirs = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    call = {"image": PIXELS, "mask_image": MASK, "denoising_start": 0.5, "eta": 1.0, **SIZE}
    assert_same(InpaintPipeline(**parts), theirs, prompt=PROMPTS[0], **call)


@pytest.mark.parametrize(
    ("channels", "call", "message"),
    [
        (4, {"denoising_start": 1.5}, "Got denoising_start=1.5, expected a number between 0 and 1"),
        (
            4,
            {"denoising_start": 0.5, "latents": torch.zeros(1, 4, 8, 8)},
            "Got both denoising_start and latents",
        ),
        (9, {"denoising_start": 0.5}, "Got latents as image.*masked_image_latents"),
    ],
)
def test_a_share_that_inpainting_cannot_take_is_refused(channels, call, message):
    pipe = InpaintPipeline(**tiny_sdxl_components(in_channels=channels))
    asked = {"image": torch.zeros(1, 4, 8, 8), "mask_image": MASK, **SIZE}
    with pytest.raises(ArgumentError, match=message):
        pipe("a cat", **asked | call)


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_two_shares_of_one_model_are_the_whole_run(base, name):
    base = base | {"scheduler": build_scheduler(name, base["scheduler"].config)}
    first, second = TextToImagePipeline(**base), ImageToImagePipeline(**base)
    asked = {"num_inference_steps": 10, "guidance_scale": 5.0, "output_type": "latent"}
    asked["generator"] = None
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8)
    whole = first("a cat", latents=latents, **asked).images
    half = first("a cat", latents=latents, denoising_end=0.5, **asked).images
    assert not torch.equal(half, whole)
    assert torch.equal(second("a cat", image=half, denoising_start=0.5, **asked).images, whole)


def test_latents_of_eight_channels_are_taken_as_they_are():
    parts = tiny_sd_components() | {
        "vae": tiny_small_vae(latent_channels=8),
        "unet": tiny_unet(in_channels=8, out_channels=8),
    }
    asked = {"num_inference_steps": 4, "output_type": "latent"}
    latents = torch.randn(1, 8, 10, 6)
    whole = TextToImagePipeline(**parts)("a cat", latents=latents, **asked).images
    half = TextToImagePipeline(**parts)("a cat", latents=latents, denoising_end=0.5, **asked)
    change = ImageToImagePipeline(**parts)
    assert torch.equal(
        change("a cat", image=half.images, denoising_start=0.5, **asked).images, whole
    )


def test_a_guidance_that_looks_at_clean_latents_sees_the_same_in_a_share(base):
    """The factors belong to the turns that are run, not to the last of the schedule."""
    pipe = TextToImagePipeline(**base)
    seen = []

    class Noting(AdaptiveProjected):
        def combine(self, predictions, run):
            seen.append(tuple(run.x0_coefficients[run.step]))
            return super().combine(predictions, run)

    for share in (None, 0.5):
        pipe("a cat", num_inference_steps=6, guidance=Noting(5.0), denoising_end=share)
    assert len(seen) > 6
    assert seen[6:] == seen[: len(seen) - 6]


def test_the_bar_counts_the_steps_of_the_share(base, monkeypatch):
    pipe = TextToImagePipeline(
        **base | {"scheduler": build_scheduler("heun", base["scheduler"].config)}
    )
    bars = []
    original = pipe.progress_bar

    def kept(**options):
        bars.append(original(**options))
        return bars[-1]

    monkeypatch.setattr(pipe, "progress_bar", kept)
    pipe("a cat", num_inference_steps=10, denoising_end=0.5)
    assert bars[0].n == bars[0].total < 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"denoising_start": 0.0}, "Got denoising_start=0.0, expected a number between 0 and 1"),
        ({"denoising_end": 1.5}, "Got denoising_end=1.5, expected a number between 0 and 1"),
        ({"denoising_end": "0.8"}, "Got denoising_end='0.8'"),
        ({"denoising_end": float("nan")}, "Got denoising_end=nan"),
        ({"denoising_start": 0.8, "denoising_end": 0.8}, "the end must be the larger one"),
        ({"denoising_start": 0.9999}, "denoising_start=0.9999, which leaves no step"),
        ({"denoising_end": 0.0001, "strength": 0.5}, "denoising_end=0.0001, which leaves no step"),
        ({"aesthetic_score": "high"}, "Got aesthetic_score=high, expected a finite number"),
        ({"negative_aesthetic_score": float("inf")}, "Got negative_aesthetic_score=inf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_with_what_was_given_and_expected(refiner, call, message):
    ours, _ = pair(refiner)
    with pytest.raises(ArgumentError, match=message):
        ours(**{"prompt": "a cat", "image": PIXELS, "num_inference_steps": 4} | call)
