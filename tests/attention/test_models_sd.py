"""Stable Diffusion's and SDXL's pipelines of diffusers, attended to."""

from itertools import product

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from t2i.attention import LocalBlend, Refine, Replace, Reweight, SelfReplace, attend
from t2i.errors import ArgumentError, AttentionError
from tests.attention.by_hand import asked, assert_maps
from tests.sweeps import sweep
from tests.tiny import diffusers_pipeline, tiny_sd_components, tiny_sdxl_components

PROMPTS = ["a red apple", "a blue red dog"]
PLACES = {"apple": (3,), "dog": (4,)}
KEYS = 20
"""Unlike the positions of any site."""
SITES = 4
"""Of cross-attention: down, mid and two up."""
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
}


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components(window=KEYS)


@pytest.fixture(scope="module")
def pipe(parts):
    return diffusers_pipeline(parts)


@pytest.fixture(scope="module")
def xl():
    pipe = StableDiffusionXLPipeline(**tiny_sdxl_components(window=KEYS), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts=PROMPTS, **call):
    settings = {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        "height": 32,
        "width": 48,
    }
    return pipe(prompts, **(settings | call)).images


@pytest.mark.parametrize(
    ("scheduler", "guidance"),
    sweep(
        product(SCHEDULERS, [1.0, 5.0]),
        quick=[("ddim", 1.0), ("pndm", 5.0), ("euler", 1.0), ("heun", 5.0)],
    ),
)
def test_maps_are_of_the_right_rows_columns_and_steps(pipe, scheduler, guidance, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", SCHEDULERS[scheduler].from_config(pipe.scheduler.config))
    call = {"guidance_scale": guidance, "num_images_per_prompt": 2}
    with asked(pipe.unet) as calls:
        plain = draw(pipe, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        seen = draw(pipe, callback_on_step_end=attn.on_step_end, **call)
        uncond = 0 if guidance == 1 else 4
        for prompt, word in enumerate(PLACES):
            for picture in range(2):
                row = uncond + 2 * prompt + picture
                of = maps[prompt].for_image(picture)
                assert_maps(attn, of, word, calls, KEYS, row, PLACES[word])
        passes = len(pipe.scheduler.timesteps)
        read = [one.site for one in maps[0].measurements.list_accumulators(0)]
        assert f"x {passes} steps, {passes * len(read)} calls" in attn.report()
    assert torch.equal(plain, seen)
    assert maps[0]["apple"].shape == (8, 12)
    assert {site.size for site in read} == {(8, 12), (4, 6)}
    assert {site.size for site in maps[0].sites} == {(8, 12)}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_to_image_counts_the_steps_that_it_makes(parts, scheduler):
    parts = parts | {"scheduler": SCHEDULERS[scheduler].from_config(parts["scheduler"].config)}
    pipe = StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)

    def draw_from(**more):
        return pipe(
            PROMPTS[0],
            image=Image.new("RGB", (48, 32), "teal"),
            strength=0.5,
            num_inference_steps=8,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **more,
        ).images

    with asked(pipe.unet) as calls:
        plain = draw_from()
    turns = sum(call.keys == KEYS for call in calls) // SITES
    with attend(pipe, prompts=PROMPTS[:1]) as attn:
        first, last = attn.probe("apple", steps=(0, 1)), attn.probe("apple", steps=(turns - 1, 99))
        attn.probe("apple", steps=(0.0, 1.0))
        seen = draw_from(callback_on_step_end=attn.on_step_end)
        crossing = [call for call in calls if call.keys == KEYS]
        assert_maps(attn, first, "apple", crossing[:SITES], KEYS, 1, (3,))
        assert_maps(attn, last, "apple", crossing[-SITES:], KEYS, 1, (3,))
        assert attn.report().splitlines()[-1].endswith(f"x {turns} steps, {SITES * turns} calls")
    assert torch.equal(plain, seen)


def test_inpainting_is_read_and_edited(parts):
    pipe = StableDiffusionInpaintPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red apple", "a red dog"]

    def draw_into(**more):
        return draw(
            pipe,
            prompts,
            image=[Image.new("RGB", (48, 32), "teal")] * 2,
            mask_image=[Image.new("L", (48, 32), 255)] * 2,
            **more,
        )

    plain = draw_into()
    with attend(pipe, prompts=prompts) as attn:
        maps = attn.probe("apple")
        assert torch.equal(draw_into(callback_on_step_end=attn.on_step_end), plain)
        attn.edit(Replace(source=0, target=1))
        made = draw_into(callback_on_step_end=attn.on_step_end)
    assert maps["apple"].shape == (8, 12)
    assert torch.equal(made[0], plain[0])
    assert not torch.equal(made[1], plain[1])


EDITS = {
    "Replace": Replace(source=0, target=1),
    "Refine": Refine(source=0, target=1),
    "Reweight": Reweight(target=1, weights={"dog": 3.0}),
    "SelfReplace": SelfReplace(source=0, target=1),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    sweep(
        product(["pipe", "xl"], EDITS),
        quick=[*product(["pipe"], EDITS), ("xl", "Refine")],
    ),
)
def test_edits_change_the_target_alone(kind, name, request):
    pipe, edit = request.getfixturevalue(kind), EDITS[name]
    prompts = ["a red apple", "a red dog"]
    call = {"num_images_per_prompt": 2}
    plain = draw(pipe, prompts, **call)
    with attend(pipe, prompts=prompts) as attn:
        attn.edit(edit)
        made = draw(pipe, prompts, callback_on_step_end=attn.on_step_end, **call)
    assert torch.equal(made[:2], plain[:2])
    for picture in (2, 3):
        assert not torch.equal(made[picture], plain[picture])


def test_sdxl_is_read_with_both_encoders_words_in_the_same_places(xl):
    with asked(xl.unet) as calls:
        plain = draw(xl)
    with attend(xl, prompts=PROMPTS) as attn:
        maps = attn.probe("dog", prompt=1)
        seen = draw(xl, callback_on_step_end=attn.on_step_end)
        assert_maps(attn, maps, "dog", calls, KEYS, 3, PLACES["dog"])
    assert torch.equal(plain, seen)
    assert len(maps.measurements.accumulators) == 2 * SITES


def test_a_denoiser_alone_takes_a_tokenizer(parts):
    unet, tokenizer = parts["unet"], parts["tokenizer"]
    text_BTD = torch.randn(2, KEYS, 32)
    latents_BCHW = torch.randn(2, 4, 8, 12)

    def denoise():
        with torch.no_grad():
            return unet(latents_BCHW, 500, encoder_hidden_states=text_BTD).sample

    with asked(unet) as calls:
        plain = denoise()
    with attend(unet, prompts=PROMPTS, tokenizer=tokenizer) as attn:
        maps = attn.probe("dog", prompt=1)
        assert torch.equal(denoise(), plain)
        assert_maps(attn, maps, "dog", calls, KEYS, 1, PLACES["dog"])


def test_a_denoiser_alone_knows_the_rows_of_guidance_by_their_looks(pipe):
    with asked(pipe.unet) as calls:
        draw(pipe, num_inference_steps=1)
    with attend(pipe.unet, prompts=PROMPTS, tokenizer=pipe.tokenizer) as attn:
        maps = attn.probe("apple")
        draw(pipe, num_inference_steps=1)
        assert_maps(attn, maps, "apple", calls, KEYS, 2, PLACES["apple"])


def test_a_denoiser_alone_without_prompts_is_asked_by_places(parts):
    unet = parts["unet"]
    with attend(unet) as attn:
        maps = attn.probe((3, 4))
        with torch.no_grad():
            unet(torch.randn(1, 4, 8, 8), 500, encoder_hidden_states=torch.randn(1, KEYS, 32))
    assert maps["(3, 4)"].shape == (8, 8)


def test_a_word_of_a_denoiser_that_was_told_no_prompts_is_refused(parts):
    def run():
        with attend(parts["unet"]) as attn, torch.no_grad():
            attn.probe("dog")
            text_BTD = torch.randn(1, KEYS, 32)
            parts["unet"](torch.randn(1, 4, 8, 8), 500, encoder_hidden_states=text_BTD)

    with pytest.raises(ArgumentError, match="'dog': this model came without a tokenizer"):
        run()


def test_other_prompts_than_the_call_has_are_refused(pipe):
    def run():
        with attend(pipe, prompts=[*PROMPTS, "a cat"]) as attn:
            attn.probe("cat", prompt=2)
            draw(pipe)

    with pytest.raises(ArgumentError, match=r"called with 4 rows .* of 3 prompts"):
        run()


def test_an_edit_of_latents_asks_for_the_callback(pipe):
    def run():
        with attend(pipe, prompts=PROMPTS) as attn:
            attn.edit(LocalBlend(source=0, target=1, words=("apple", "dog")))
            draw(pipe)

    with pytest.raises(AttentionError, match=r"callback_on_step_end=attn.on_step_end"):
        run()


@pytest.mark.parametrize("kind", ["pipe", "xl"])
@pytest.mark.parametrize(
    "told",
    [["a red dog"], ["a red apple and"], ["a"]],
    ids=["another", "a longer one", "a shorter one"],
)
def test_another_prompt_than_the_pipeline_reads_is_refused(kind, told, request):
    pipe = request.getfixturevalue(kind)

    def run():
        with attend(pipe, prompts=told) as attn:
            attn.probe("a")
            draw(pipe, ["a red apple"])

    with pytest.raises(ArgumentError, match="text encoder read other tokens"):
        run()


def test_prompts_in_another_order_are_refused(pipe):
    def run():
        with attend(pipe, prompts=PROMPTS[::-1]) as attn:
            attn.probe("red")
            draw(pipe)

    with pytest.raises(ArgumentError, match="text encoder read other tokens"):
        run()


def test_prompts_of_embeddings_made_elsewhere_are_taken_as_told(pipe):
    text_BTD, negative_BTD = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    call = {"prompt_embeds": text_BTD, "negative_prompt_embeds": negative_BTD}
    with attend(pipe, prompts=PROMPTS) as attn:
        embedded = attn.probe("dog", prompt=1)
        draw(pipe, None, **call)
    with attend(pipe, prompts=PROMPTS) as attn:
        said = attn.probe("dog", prompt=1)
        draw(pipe)
    assert torch.equal(embedded["dog"], said["dog"])


def test_a_word_that_the_pipeline_cuts_off_is_refused(pipe):
    prompt = "a red apple " * 7 + "dog"

    def run():
        with attend(pipe, prompts=[prompt]) as attn:
            attn.probe("dog")
            draw(pipe, [prompt])

    with pytest.raises(
        ArgumentError, match=r"'dog'.* reads token position .* of a text of 20 tokens"
    ):
        run()


def test_a_word_of_textual_inversion_moves_the_words_behind_it():
    """One word of several vectors: the pipeline makes "<toy> <toy>_1" of "<toy>"."""
    parts = tiny_sd_components(window=KEYS)
    pipe = diffusers_pipeline(parts)
    pipe.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    prompts = ["a <toy> apple"]
    with asked(pipe.unet) as calls:
        draw(pipe, prompts)
    with attend(pipe, prompts=prompts) as attn:
        maps = attn.probe("apple")
        draw(pipe, prompts)
        assert_maps(attn, maps, "apple", calls, KEYS, 1, (4,))
