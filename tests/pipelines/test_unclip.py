"""UnclipPipeline against KandinskyV22Pipeline and KandinskyV22PriorPipeline, bit for bit."""

import json

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22CombinedPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
)
from peft import LoraConfig
from PIL import Image

import t2i
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.conditioning.guidance import ClassifierFree, ZeroStar
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, ModelError
from t2i.text.prompt import Prompt
from tests.denoiser.tiny_models import (
    kandinsky_components,
    kandinsky_folder,
    prior_components,
    prior_folder,
)
from tests.pipelines.against import decoder_inputs, generators
from tests.tiny import TEXT_WIDTH

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
EMBEDS, NEGATIVE = torch.randn(2, 2, TEXT_WIDTH, generator=torch.Generator().manual_seed(9))
GIVEN = {"image_embeds": EMBEDS, "negative_image_embeds": NEGATIVE}
LEARNED = {"beta_schedule": "linear", "variance_type": "learned_range", "clip_sample_range": 2.0}


@pytest.fixture(scope="module")
def decoder():
    return kandinsky_components()


@pytest.fixture(scope="module")
def prior():
    return prior_components()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(decoder, prior=None):
    parts = {f"prior_{name}": part for name, part in (prior or {}).items()}
    return quiet(UnclipPipeline(**decoder, **parts))


def theirs(decoder):
    return quiet(KandinskyV22Pipeline(**decoder))


def assert_same(ours, theirs, seeds=(3,), **call):
    """The same latents are decoded to the same pixels; returns what is decoded, or the latents.

    As "pt" diffusers gives pixels in -1..1, ours are in 0..1.
    """
    options = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "np"} | call
    decoded, results = [], []
    for pipe in (ours, theirs):
        with decoder_inputs(getattr(pipe, "movq", ours.movq)) as seen:
            drawn = pipe(generator=generators(seeds), **options).images
        results.append(torch.as_tensor(drawn))
        decoded.append(drawn if options["output_type"] == "latent" else torch.cat(seen))
    for kind, (one, other) in (("latents", decoded), ("images", results)):
        assert torch.equal(one, other), f"{kind}: max {(one - other).abs().max()}"
        assert torch.isfinite(one).all(), kind
    return decoded[0]


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "ddpm with learned variance"])
@pytest.mark.parametrize(
    "call",
    [
        GIVEN,
        GIVEN | {"num_images_per_prompt": 2, "guidance_scale": 7.0},
        GIVEN | {"seeds": (1, 2), "height": 24, "width": 20},
        GIVEN | {"guidance_scale": 1.0, "output_type": "latent"},
        GIVEN | {"latents": torch.randn(2, 4, 8, 8)},
        {"image_embeds": list(EMBEDS.split(1)), "negative_image_embeds": list(NEGATIVE.split(1))},
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(decoder, kind, call):
    kinds = {"ddim": decoder["scheduler"], "ddpm": DDPMScheduler()}
    parts = decoder | {"scheduler": kinds.get(kind) or DDPMScheduler(**LEARNED)}
    assert_same(ours(parts), theirs(parts), **call)


@pytest.mark.parametrize("negative_prompt", [None, "a dog"])
@pytest.mark.parametrize("scale", [4.0, 1.0])
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_prompt_draws_what_the_two_pipelines_of_diffusers_draw(
    decoder, prior, negative_prompt, scale, pictures
):
    pipe = ours(decoder, prior)
    of_prior = quiet(KandinskyV22PriorPipeline(**prior))

    def chained(prompt, negative_prompt, num_images_per_prompt, generator, **call):
        call["guidance_scale"] = call.pop("prior_guidance_scale")
        steps = call.pop("prior_num_inference_steps")
        size = {name: call.pop(name) for name in ("height", "width")}
        kind, count = call.pop("output_type"), call.pop("num_inference_steps")
        embeds = of_prior(
            prompt,
            negative_prompt=negative_prompt and [negative_prompt] * len(prompt),
            num_images_per_prompt=num_images_per_prompt,
            num_inference_steps=steps,
            generator=generator,
            **call,
        )
        return theirs(decoder)(
            **embeds, **size, generator=generator, output_type=kind, num_inference_steps=count
        )

    asked = {"negative_prompt": negative_prompt, "num_images_per_prompt": pictures}
    prior_asked = {"prior_guidance_scale": scale, "prior_num_inference_steps": 3}
    assert_same(pipe, chained, prompt=PROMPTS, num_inference_steps=2, **asked, **prior_asked)


def test_a_prompt_equals_the_combined_pipeline_of_diffusers(decoder, prior):
    parts = {f"prior_{name}": part for name, part in prior.items()}
    combined = quiet(KandinskyV22CombinedPipeline(**decoder, **parts))
    call = {"prior_num_inference_steps": 3, "prior_guidance_scale": 2.5, "num_inference_steps": 2}
    drawn = assert_same(ours(decoder, prior), combined, prompt=PROMPTS[0], **call)
    other = assert_same(ours(decoder, prior), combined, prompt=PROMPTS[1], **call)
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize("negative_prompt", [None, "a dog"])
def test_a_batch_equals_its_pictures_one_by_one(negative_prompt):
    pipe = ours(
        kandinsky_components() | {"scheduler": DDPMScheduler(**LEARNED)}, prior_components()
    ).to(torch.float64)  # In float32 a larger batch rounds otherwise, by 3e-5 of latents of 2.
    asked = {"num_inference_steps": 3, "prior_num_inference_steps": 3, "output_type": "latent"}
    asked["negative_prompt"] = negative_prompt
    batch = pipe(PROMPTS, generator=generators((7, 8)), **asked).images
    for row, (prompt, seed) in enumerate(zip(PROMPTS, (7, 8), strict=True)):
        single = pipe(prompt, generator=[torch.Generator().manual_seed(seed)], **asked).images
        assert (batch[row] - single[0]).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["euler", "dpm++ 2m", "ddim", "unipc"])
def test_samplers_made_of_a_learned_variance_step_without_it(decoder, name):
    """Closed form: as with a configuration that never spoke of a variance."""
    drawn = []
    for config in (DDPMScheduler(**LEARNED).config, DDPMScheduler(beta_schedule="linear").config):
        pipe = ours(decoder | {"scheduler": build_scheduler(name, config)})
        asked = {"num_inference_steps": 4, "output_type": "latent", **GIVEN}
        drawn.append(pipe(generator=generators((3,)), **asked).images)
    assert torch.equal(*drawn)


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_guidance_of_ones_own_takes_the_place_of_the_scale(decoder, variance_type):
    pipe = ours(decoder | {"scheduler": DDPMScheduler(variance_type=variance_type)})

    def drawn(**call):
        asked = {"num_inference_steps": 4, "output_type": "latent", **GIVEN}
        return pipe(generator=generators((3,)), **asked, **call).images

    assert torch.equal(drawn(guidance=ClassifierFree(6.0)), drawn(guidance_scale=6.0))
    assert not torch.equal(drawn(guidance=ZeroStar(6.0)), drawn(guidance_scale=6.0))
    limited = drawn(guidance=Interval(ClassifierFree(6.0), 0.0, 0.5))
    assert not torch.equal(limited, drawn(guidance_scale=6.0))
    with pytest.raises(ArgumentError, match=r"branches .*perturbed.* has uncond and cond"):
        pipe(**GIVEN, guidance=PerturbedAttention(6.0))


def test_a_callback_sees_and_changes_what_diffusers_lets_it(decoder):
    seen = []

    def swap(pipe, step, timestep, tensors):
        seen.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {"image_embeds": tensors["image_embeds"].flip(0), "latents": tensors["latents"] / 2}

    names = ["latents", "image_embeds", "negative_image_embeds"]
    call = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": names}
    assert_same(ours(decoder), theirs(decoder), **GIVEN, **call)
    assert seen[0]["image_embeds"] == (4, TEXT_WIDTH)


def test_a_callback_may_stop_a_run(decoder):
    steps = []

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        steps.append(step)
        return {}

    ours(decoder)(**GIVEN, num_inference_steps=4, callback_on_step_end=stop)
    assert steps == [0]


def test_pictures_come_as_pillow_and_as_tensors_from_0_to_1(decoder):
    pipe = ours(decoder)
    drawn = pipe(**GIVEN, num_inference_steps=2)
    assert [picture.size for picture in drawn.images] == [(16, 16)] * 2
    assert isinstance(drawn.grid(), Image.Image)
    (pixels, _) = pipe(**GIVEN, num_inference_steps=2, output_type="pt", return_dict=False)
    assert pixels.min() >= 0 <= 1 >= pixels.max()


# folders


def test_folders_of_diffusers_load_and_ours_load_there(decoder, prior, tmp_path):
    alone = quiet(UnclipPipeline.from_pretrained(kandinsky_folder(tmp_path / "decoder")))
    assert alone.prior_prior is None
    given = GIVEN | {"num_inference_steps": 2}
    assert_same(alone, theirs(decoder), **given)
    alone.save_pretrained(tmp_path / "alone")
    assert_same(alone, quiet(KandinskyV22Pipeline.from_pretrained(tmp_path / "alone")), **given)
    assert json.loads((tmp_path / "alone/model_index.json").read_text()).keys() >= {"movq"}

    both = quiet(
        UnclipPipeline.from_pretrained(tmp_path / "decoder", prior=prior_folder(tmp_path / "prior"))
    )
    both.save_pretrained(tmp_path / "both")
    combined = quiet(KandinskyV22CombinedPipeline.from_pretrained(tmp_path / "both"))
    call = {"prompt": PROMPTS[0], "prior_num_inference_steps": 2, "num_inference_steps": 2}
    assert_same(both, combined, **call)
    assert_same(quiet(UnclipPipeline.from_pretrained(tmp_path / "both")), combined, **call)


def test_a_lora_on_the_priors_text_encoder_is_saved_with_it_and_one_on_the_prior_is_refused(
    tmp_path,
):
    both = ours(kandinsky_components(), prior_components())
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    both.prior_text_encoder.add_adapter(lora)
    both.save_pretrained(tmp_path / "both")
    again = quiet(UnclipPipeline.from_pretrained(tmp_path / "both"))
    combined = quiet(KandinskyV22CombinedPipeline.from_pretrained(tmp_path / "both"))
    call = {"prompt": PROMPTS[0], "prior_num_inference_steps": 2, "num_inference_steps": 2}
    assert_same(again, combined, **call)
    call |= {"height": 16, "width": 16, "output_type": "pt"}
    one, other = (pipe(**call, generator=generators((3,))).images for pipe in (both, again))
    assert torch.allclose(one, other, atol=1e-4)
    both.prior_prior.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    with pytest.raises(ModelError, match="A LoRA is on the prior_prior"):
        both.save_pretrained(tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_a_folder_that_another_pipeline_draws_is_refused_with_its_name(tmp_path, model_folder):
    decoder, prior = kandinsky_folder(tmp_path / "decoder"), prior_folder(tmp_path / "prior")
    for load in (t2i.load, TextToImagePipeline.from_pretrained):
        with pytest.raises(
            ModelError, match=r"is a Kandinsky 2.2 decoder.*UnclipPipeline.from_pre"
        ):
            load(str(decoder))
    with pytest.raises(ModelError, match=r"is a Kandinsky 2.2 prior.*decoder, prior=..."):
        UnclipPipeline.from_pretrained(prior)
    with pytest.raises(ModelError, match=r"is a Stable Diffusion.*TextToImagePipeline.from_pre"):
        UnclipPipeline.from_pretrained(model_folder)
    with pytest.raises(ModelError, match=r"Got prior=.*which is a Kandinsky 2.2 decoder; expected"):
        UnclipPipeline.from_pretrained(decoder, prior=decoder)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a single file, and UnclipPipeline reads none"):
        UnclipPipeline.from_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"Got prior=.*which is a single file; expected"):
        UnclipPipeline.from_pretrained(decoder, prior=tmp_path / "model.safetensors")


# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image_embeds": None}, "Got negative_image_embeds with a prompt|Got neither prompt nor"),
        ({"prompt": "a cat"}, "Got both prompt and image_embeds"),
        ({"negative_prompt": "a cat"}, "Got both negative_prompt and image_embeds"),
        ({"negative_image_embeds": None}, "without negative_image_embeds: guidance needs"),
        ({"negative_image_embeds": NEGATIVE[:0]}, "Got 0 rows of negative_image_embeds for 2"),
        ({"image_embeds": "a cat"}, "Got image_embeds of type str, expected a tensor"),
        ({"image_embeds": []}, "Got image_embeds of type list, expected a tensor"),
        ({"image_embeds": EMBEDS[:, :7]}, r"shape \(2, 7\) .*expected \(images, 32\)"),
        ({"image_embeds": EMBEDS.long()}, "torch.int64, expected .* floating point"),
        ({"height": 18}, "Got height=18, but this model needs a multiple of 4.* 16 and 20"),
        ({"latents": torch.randn(1, 4, 8, 8)}, r"expected \(2, 4, 8, 8\)"),
        ({"generator": [torch.Generator()]}, "Got 1 generator for 2 images"),
        ({"num_inference_steps": 0}, "Got num_inference_steps=0"),
        ({"num_images_per_prompt": 0}, "Got num_images_per_prompt=0"),
        ({"guidance_scale": float("nan")}, "Got guidance_scale=nan"),
        ({"guidance": 3.0}, "Got guidance=3.0, expected an object"),
        ({"output_type": "png"}, "Unknown output_type 'png'"),
        ({"callback_on_step_end_tensor_inputs": ["embeds"]}, "Unknown name 'embeds'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_with_what_was_given_and_expected(decoder, call, message):
    with pytest.raises(ArgumentError, match=message):
        ours(decoder)(**GIVEN | {"num_inference_steps": 2} | call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": None}, "Got neither prompt nor image_embeds"),
        ({"prompt": Prompt("a (red:1.2) cat")}, "Got prompt with a Prompt: a prior reads plain"),
        ({"prompt": 3}, "Got prompt of type int"),
        ({"negative_prompt": ["a", "b"]}, "Got 2 strings as negative_prompt for 1 prompt"),
        ({"prior_num_inference_steps": 1}, "Got prior_num_inference_steps=1, .* from 2 to 1000"),
        ({"prior_guidance_scale": float("inf")}, "Got guidance_scale=inf"),
        ({"generator": generators((1, 2))}, "Got 2 generators for 1 image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_prompt_that_no_prior_reads_is_refused(decoder, prior, call, message):
    with pytest.raises(ArgumentError, match=message):
        ours(decoder, prior)(**{"prompt": "a cat", "num_inference_steps": 2} | call)


def test_a_prompt_without_a_prior_says_how_to_load_one(decoder):
    with pytest.raises(ArgumentError, match=r"has no prior .*from_pretrained.decoder, prior=..."):
        ours(decoder)("a cat")


def test_words_beyond_the_priors_window_are_named(decoder, prior):
    with pytest.warns(UserWarning, match="zebra"):
        ours(decoder, prior)(
            "the cat " * 9 + "zebra", num_inference_steps=2, prior_num_inference_steps=2
        )


def test_parts_that_do_not_belong_together_are_refused(decoder, prior):
    with pytest.raises(ModelError, match=r"reads 9 channels and predicts 8; .* expected 4 and 8"):
        ours(kandinsky_components(in_channels=9))
    with pytest.raises(ModelError, match="addition_embed_type='image_hint'; expected"):
        ours(kandinsky_components(addition_embed_type="image_hint"))
    with pytest.raises(ModelError, match="embeddings of width 16, but the UNet reads 32"):
        ours(decoder, prior_components(clip_embed_dim=16))
    with pytest.raises(ModelError, match="Got a prior with a DDPMScheduler, expected an UnCLIP"):
        ours(decoder, prior | {"scheduler": DDPMScheduler()})
