"""TextToImagePipeline against StableDiffusionPipeline on the same weights, latents and scheduler.

Bit for bit in float32 on CPU wherever both compute the same batch: every comparison with
diffusers here is `torch.equal`.
"""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, ModelError
from tests.pipelines.against import assert_same
from tests.sweeps import sweep
from tests.tiny import (
    TEXT_WIDTH,
    WINDOW,
    diffusers_pipeline,
    tiny_scheduler,
    tiny_sd_components,
    tiny_small_vae,
    tiny_unet,
    tiny_vae,
)

PROMPTS = ["a red apple to the left of the cat", "zebra, blue"]
SAMPLERS = [
    "ddim",
    "ddpm",
    "pndm",
    "euler",
    "euler a",
    "heun",
    "dpm2 a",
    "dpm++ 2m",
    "dpm++ 2m karras",
    "dpm++ 2m sde",
    "unipc",
    "lcm",
]
ZERO_SNR_SAMPLERS = ["ddim", "euler", "euler a", "dpm++ 2m", "unipc"]


def seeds(*numbers):
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators if len(generators) > 1 else generators[0]


def assert_equal_to_diffusers(components, **call):
    """In two steps, unless the call says otherwise."""
    ours, theirs = TextToImagePipeline(**components), diffusers_pipeline(components)
    return assert_same(ours, theirs, **{"num_inference_steps": 2} | call)


def draw(components, **call):
    pipe = TextToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=seeds(3), output_type="latent", **{"num_inference_steps": 2} | call)


# parity


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_equals_diffusers(components, name):
    parts = components | {"scheduler": build_scheduler(name, components["scheduler"].config)}
    assert_equal_to_diffusers(parts, prompt=PROMPTS, num_inference_steps=4)


@pytest.mark.parametrize("name", ZERO_SNR_SAMPLERS)
def test_v_prediction_from_pure_noise_equals_diffusers(components, name):
    config = tiny_scheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ).config
    parts = components | {"scheduler": build_scheduler(name, config)}
    call = {"guidance_rescale": 0.7, "num_inference_steps": 4}
    assert_equal_to_diffusers(parts, prompt=PROMPTS[0], **call)


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS, "guidance_scale": 1.0},
        {"prompt": PROMPTS, "guidance_scale": 0.0},
        {"prompt": PROMPTS, "guidance_scale": 12.5, "guidance_rescale": 0.4},
        {"prompt": PROMPTS[0], "negative_prompt": "a dog"},
        {"prompt": PROMPTS, "negative_prompt": ["a dog", ""], "num_images_per_prompt": 3},
        {"prompt": PROMPTS, "height": 16, "width": 48},
        {"prompt": PROMPTS, "eta": 0.7},
        {"prompt": PROMPTS, "seeds": (5, 6)},
        {"prompt": PROMPTS, "num_images_per_prompt": 2, "seeds": (5, 6, 7, 8), "eta": 1.0},
        {"prompt": PROMPTS, "output_type": "latent"},
        {"prompt": PROMPTS, "num_inference_steps": 1},
        {"prompt": "", "latents": torch.randn(1, 4, 8, 8)},
        {"prompt_embeds": torch.randn(2, 9, TEXT_WIDTH)},
        {
            "prompt_embeds": torch.randn(2, WINDOW, TEXT_WIDTH),
            "negative_prompt_embeds": torch.randn(2, WINDOW, TEXT_WIDTH),
        },
    ],
    ids=lambda call: " ".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(components, call):
    assert_equal_to_diffusers(components, **call)


@pytest.mark.parametrize(
    "custom", [{"timesteps": [900, 500, 20]}, {"sigmas": [14.0, 5.0, 1.0, 0.0]}], ids=str
)
def test_steps_of_ones_own_equal_diffusers(components, custom):
    parts = components | {"scheduler": build_scheduler("euler", components["scheduler"].config)}
    assert_equal_to_diffusers(parts, prompt=PROMPTS, **custom)


@pytest.mark.parametrize(
    "part",
    [
        {"vae": tiny_small_vae()},
        {"vae": tiny_vae(scaling_factor=0.7)},
        {"unet": tiny_unet(sample_size=(8, 4))},
        {"unet": tiny_unet(time_cond_proj_dim=8)},
    ],
    ids=["AutoencoderTiny", "scaling factor", "not square", "distilled guidance"],
)
def test_other_parts_equal_diffusers(components, part):
    assert_equal_to_diffusers(components | part, prompt=PROMPTS)


def test_a_scheduler_with_settings_of_an_old_folder_equals_diffusers(components):
    parts = components | {"scheduler": tiny_scheduler(steps_offset=0, clip_sample=True)}
    with pytest.warns(UserWarning, match="as Stable Diffusion needs"):
        ours = TextToImagePipeline(**parts)
    ours.set_progress_bar_config(disable=True)
    theirs = diffusers_pipeline(parts)
    calls = [pipe(PROMPTS, generator=seeds(1), num_inference_steps=2) for pipe in (ours, theirs)]
    pictures = [[picture.tobytes() for picture in call.images] for call in calls]
    assert pictures[0] == pictures[1]


def test_the_prompt_and_the_scale_change_the_picture(components):
    """Without this, parity could hold between two pipelines that ignore both."""
    red = draw(components, prompt="a red apple").images
    blue = draw(components, prompt="a blue dog").images
    weak = draw(components, prompt="a red apple", guidance_scale=2.0).images
    assert (red - blue).abs().max() > 1e-3
    assert (red - weak).abs().max() > 1e-3


# batches


@pytest.mark.parametrize(
    ("dtype", "tolerance", "name"),
    sweep(  # the sampler that draws noise; in float64 the difference is rounding and no more
        [
            (torch.float32, 5e-6, "euler a"),
            (torch.float64, 1e-12, "euler a"),
            (torch.float32, 5e-6, "ddim"),
            (torch.float64, 1e-12, "ddim"),
        ],
        quick=2,
    ),
)
def test_a_batch_equals_its_pictures_one_by_one(name, dtype, tolerance):
    """Relative to the largest latent; measured: float32 2e-6, float64 4e-15: it is rounding."""
    parts = tiny_sd_components()
    parts["scheduler"] = build_scheduler(name, parts["scheduler"].config)
    pipe = TextToImagePipeline(**parts).to(dtype=dtype)
    pipe.set_progress_bar_config(disable=True)

    call = {"num_inference_steps": 3, "output_type": "latent"}
    prompts = [*PROMPTS, ""]
    together = pipe(prompts, generator=seeds(1, 2, 3), **call).images
    for i, prompt in enumerate(prompts):
        alone = pipe(prompt, generator=seeds(i + 1), **call).images
        difference = (alone - together[i : i + 1]).abs().max() / alone.abs().max()
        assert difference < tolerance, f"picture {i}: {difference}"


def test_one_negative_prompt_serves_all(components):
    one = draw(components, prompt=PROMPTS, negative_prompt="dog").images
    each = draw(components, prompt=PROMPTS, negative_prompt=["dog", "dog"]).images
    assert torch.equal(one, each)


# results


@pytest.mark.parametrize(
    ("output_type", "shape"),
    [("pt", (2, 3, 32, 32)), ("np", (2, 32, 32, 3)), ("latent", (2, 4, 8, 8))],
)
def test_pictures_come_in_the_form_asked_for(pipe, output_type, shape):
    images = pipe(PROMPTS, num_inference_steps=1, output_type=output_type).images
    assert tuple(images.shape) == shape


def test_pictures_are_pillow_images_by_default(pipe):
    output = pipe("cat", num_inference_steps=1, height=16)
    assert [picture.size for picture in output.images] == [(32, 16)]
    assert output.nsfw_content_detected is None
    images, _ = pipe("cat", num_inference_steps=1, return_dict=False)
    assert images[0].size == (32, 32)


def test_the_size_follows_the_latents(pipe):
    latents_BCHW = torch.randn(1, 4, 4, 12)
    picture = pipe("cat", num_inference_steps=1, latents=latents_BCHW).images[0]
    assert picture.size == (48, 16)


def test_results_are_plain_tensors_that_may_be_trained_on(pipe):
    latents_BCHW = pipe("cat", num_inference_steps=1, output_type="latent").images
    assert not latents_BCHW.is_inference()
    assert not latents_BCHW.requires_grad


# callbacks and interruption


def test_the_callback_sees_and_replaces_latents(pipe):
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents_BCHW = pipe(
        "cat",
        num_inference_steps=3,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "negative_prompt_embeds"],
    ).images
    names = ["latents", "negative_prompt_embeds", "prompt_embeds"]
    assert seen == [(0, 667, names), (1, 334, names), (2, 1, names)]
    assert pipe.num_timesteps == 3
    assert not latents_BCHW.any()


def test_a_callback_of_diffusers_that_ends_guidance_does_the_same_here(components):
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    call = {"prompt": "cat", "num_inference_steps": 3, "output_type": "latent"}
    cut = assert_equal_to_diffusers(components, callback_on_step_end=cutoff, **call)
    assert not torch.equal(cut, draw(components, prompt="cat", num_inference_steps=3).images)


def test_a_callback_may_change_the_scale_during_the_run(components):
    def raise_scale(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 3.0 + step
        return tensors

    assert_equal_to_diffusers(components, prompt="cat", callback_on_step_end=raise_scale)


def test_prompt_embeds_of_the_wrong_length_from_a_callback_are_refused(pipe):
    with pytest.raises(ArgumentError, match=r"prompt_embeds of 3 rows, expected 4 .*, or 2 to go"):
        pipe(
            PROMPTS,
            num_inference_steps=2,
            callback_on_step_end=lambda p, i, t, x: {"prompt_embeds": x["prompt_embeds"][:3]},
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )


def test_setting_interrupt_ends_the_run_early(components):
    def interrupt(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1
        return tensors

    call = {"prompt": "cat", "num_inference_steps": 4, "output_type": "latent"}
    early = assert_equal_to_diffusers(components, callback_on_step_end=interrupt, **call)
    assert not torch.equal(early, draw(components, prompt="cat", num_inference_steps=4).images)


def test_ctrl_c_leaves_at_once_and_the_pipeline_can_go_on(pipe):
    call = {"num_inference_steps": 4, "output_type": "latent"}
    before = pipe("cat", generator=seeds(1), **call).images
    freed = []
    pipe.maybe_free_model_hooks = lambda: freed.append(True)
    steps = []

    def press(pipeline, step, timestep, tensors):
        steps.append(step)
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        pipe("cat", callback_on_step_end=press, **call)
    assert steps == [0, 1]
    assert freed == [True]
    assert torch.equal(pipe("cat", generator=seeds(1), **call).images, before)


@pytest.mark.parametrize(("name", "steps"), [("ddim", 2), ("pndm", 3), ("heun", 3), ("dpm2", 2)])
def test_the_progress_bar_counts_the_steps_the_user_asked_for(components, name, steps):
    pipe = TextToImagePipeline(
        **components | {"scheduler": build_scheduler(name, components["scheduler"].config)}
    )
    bars = []
    original = pipe.progress_bar
    pipe.progress_bar = lambda **options: bars.append(original(**options)) or bars[-1]
    pipe.set_progress_bar_config(disable=False, leave=False)
    pipe("cat", num_inference_steps=steps, output_type="latent")
    assert bars[0].n == bars[0].total == steps


def test_step_callbacks_of_the_pipeline_come_before_the_users_callback(pipe):
    order = []

    class Note:
        def before_pass(self, run):
            order.append(("step callback before", run.pass_conditioning.row_branches))

        def after_step(self, run):
            order.append("step callback after")

    pipe.step_callbacks.append(Note())
    pipe(
        "cat",
        num_inference_steps=1,
        callback_on_step_end=lambda p, i, t, x: order.append("callback") or x,
    )
    assert order == [
        ("step callback before", ("uncond", "cond")),
        "step callback after",
        "callback",
    ]


# folders


def test_a_stable_diffusion_folder_gives_the_same_picture_here_and_there(model_folder):
    ours = TextToImagePipeline.from_pretrained(model_folder)
    theirs = StableDiffusionPipeline.from_pretrained(model_folder)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "output_type": "pt"}
    a = ours("cat", generator=seeds(1), **call).images
    b = theirs("cat", generator=seeds(1), **call).images
    assert torch.equal(a, b)


def test_a_saved_folder_opens_here_and_in_diffusers(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    call = {"num_inference_steps": 2, "output_type": "pt"}
    before = pipe("cat", generator=seeds(1), **call).images
    for opener in (TextToImagePipeline, StableDiffusionPipeline):
        opened = opener.from_pretrained(tmp_path)
        opened.set_progress_bar_config(disable=True)
        assert torch.equal(opened("cat", generator=seeds(1), **call).images, before)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_a_saved_folder_keeps_how_its_model_likes_to_be_sampled(components, tmp_path):
    TextToImagePipeline(**components).save_pretrained(tmp_path / "first")
    (tmp_path / "first" / MODEL_NOTES_FILE).write_text('{"defaults": {"steps": 7}}')
    TextToImagePipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / MODEL_NOTES_FILE).read_text() == '{"defaults": {"steps": 7}}'


def test_a_half_precision_folder_loads_in_one_precision(model_folder, tmp_path):
    half = TextToImagePipeline.from_pretrained(model_folder, dtype=torch.float16)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.float16}
    half.save_pretrained(tmp_path)
    full = TextToImagePipeline.from_pretrained(tmp_path)
    assert {full.unet.dtype, full.vae.dtype, full.text_encoder.dtype} == {torch.float32}
    full.set_progress_bar_config(disable=True)
    full("cat", num_inference_steps=1)


def test_a_part_may_be_brought_along(model_folder, components):
    pipe = TextToImagePipeline.from_pretrained(model_folder, unet=components["unet"])
    assert pipe.unet is components["unet"]


def test_a_folder_that_is_not_whole_is_refused_before_loading(model_folder, tmp_path):
    with pytest.raises(ModelError, match=r"has no model_index.json"):
        TextToImagePipeline.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"Unknown model .*Did you mean '{model_folder}'"):
        TextToImagePipeline.from_pretrained(f"{model_folder}y")


# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "Got neither of prompt and prompt_embeds"),
        ({"prompt": 3}, "Got prompt of type int: 3. Expected a string, a Prompt, or a list"),
        (
            {"prompt": ["cat", None]},
            "Got prompt of type list.*Expected a string, a Prompt, or a list",
        ),
        ({"prompt": []}, r"Got prompt=\[\]: give at least one"),
        ({"prompt": "cat", "prompt_embeds": torch.zeros(1, 2, 3)}, "Got both of prompt and"),
        (
            {"prompt_embeds": torch.zeros(2, 3)},
            r"prompt_embeds of shape \(2, 3\) .* expected \(pro",
        ),
        (
            {
                "prompt_embeds": torch.zeros(1, 2, TEXT_WIDTH),
                "negative_prompt_embeds": torch.zeros(1, 3, TEXT_WIDTH),
            },
            "shape .* for a prompt of shape .*: expected the same",
        ),
        ({"negative_prompt_embeds": torch.zeros(3, WINDOW, TEXT_WIDTH)}, "expected the same"),
        (
            {"negative_prompt": "dog", "negative_prompt_embeds": torch.zeros(1, 2, 3)},
            "Got both negative_prompt and negative_prompt_embeds",
        ),
        ({"negative_prompt": ["a", "b"]}, "Got 2 strings as negative_prompt for 1 prompt"),
        ({"negative_prompt": 3}, "Got negative_prompt of type int"),
        ({"height": 30}, "height=30, .* multiple of 4: the nearest are 28 and 32"),
        ({"width": 0}, "width=0, .*4 is the smallest"),
        (
            {"num_inference_steps": 0},
            "num_inference_steps=0, expected a whole number from 1 to 10,000",
        ),
        ({"num_inference_steps": -5}, "num_inference_steps=-5, expected a whole number"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0, expected a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan, expected a finite number"),
        ({"guidance_rescale": float("nan")}, "guidance_rescale=nan, expected a finite number"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"latents of shape \(2, 4, 8, 8\).*\(1, 4, 8, 8\)"),
        ({"latents": torch.zeros(4, 8, 8)}, r"latents of shape \(4, 8, 8\)"),
        ({"latents": torch.zeros(1, 4, 8, 8), "height": 64}, r"expected \(1, 4, 16, 8\)"),
        ({"latents": torch.zeros(1, 4, 8, 8, dtype=torch.int64)}, "and torch.int64, expected"),
        ({"output_type": "PIL"}, "Unknown output_type 'PIL'. Did you mean 'pil'"),
        ({"generator": [torch.Generator()] * 2}, "Got 2 generators for 1 image"),
        ({"generator": 7}, "generator of type int, expected a torch.Generator"),
        ({"clip_skip": 9}, "clip_skip=9, but this text encoder has 3 layers"),
        (
            {"callback_on_step_end_tensor_inputs": ["latent"]},
            "Unknown name 'latent' .* Did you mean 'latents'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_with_what_was_given_and_expected(pipe, call, message):
    if call and not call.keys() & {"prompt", "prompt_embeds"}:
        call = {"prompt": "cat"} | call
    with pytest.raises(ArgumentError, match=message):
        pipe(**call)


def test_guidance_cannot_be_switched_on_in_mid_run(pipe):
    def switch_on(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 5.0
        return tensors

    with pytest.raises(ArgumentError, match="branch 'uncond', but only cond were encoded"):
        pipe("cat", guidance_scale=1.0, num_inference_steps=2, callback_on_step_end=switch_on)
