"""Pictures edited by SD3 and Flux in diffusers' own pipelines, against FlowEdit's equation."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.schedulers import DDIMScheduler
from PIL import Image

from pipelines.inversion.flow_pipelines import get_flow_pipeline_adapter
from pipelines.inversion.flow_source import invert_with
from pipelines.inversion.null_text import NullTextInversion
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import Reweight
from t2i.errors import ArgumentError
from tests.attention.tiny_models import flux, sd3
from tests.tiny import tiny_sd_components

SOURCE, TARGET, OTHER = "the red apple", "the red dog", "the blue dog"
SIZE = {"height": 32, "width": 64}
KINDS = ["sd3", "flux"]
DRAWN = {"output_type": "latent", "max_sequence_length": 24}


def guided_flux():
    """Flux whose model reads the guidance scale, as FLUX.1-dev."""
    pipe = flux()
    config = dict(pipe.transformer.config) | {"guidance_embeds": True}
    del config["_use_default_values"]  # which diffusers would reset
    torch.manual_seed(1)
    pipe.transformer = FluxTransformer2DModel.from_config(config).eval()
    return pipe


@pytest.fixture(scope="module")
def pipes():
    return {"sd3": sd3().to(torch.float64), "flux": guided_flux().to(torch.float64)}


def picture():
    pixels = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(4))
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


def largest(difference):
    return float(difference.abs().max())


def clean_latents(pipe):
    pixels = pipe.image_processor.preprocess(picture(), **SIZE).double()
    latents = pipe.vae.encode(pixels).latent_dist.mode()
    return (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor


def velocity_of_sd3(pipe, prompt):
    given = pipe.encode_prompt(prompt, prompt, prompt, max_sequence_length=24)

    def velocity(latents, timestep, scale):
        def predict(embeds, pooled):
            return pipe.transformer(
                latents, embeds, pooled, torch.tensor([timestep]), return_dict=False
            )[0]

        cond, uncond = predict(given[0], given[2]), predict(given[1], given[3])
        return uncond + scale * (cond - uncond)

    return velocity


def velocity_of_flux(pipe, prompt):
    embeds, pooled, text_ids = pipe.encode_prompt(prompt, prompt, max_sequence_length=24)
    image_ids = pipe._prepare_latent_image_ids(1, 4, 8, "cpu", torch.float64)

    def velocity(latents, timestep, scale):
        return pipe.transformer(
            latents,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=torch.tensor([timestep]).double() / 1000,
            guidance=torch.tensor([scale]),
            img_ids=image_ids,
            txt_ids=text_ids,
            return_dict=False,
        )[0]

    return velocity


@torch.no_grad()
def flow_edit(pipe, kind, steps, skip, scales, seed):
    """Algorithm 1 of the paper with one noise a step, in the latents of the pipeline."""
    clean = clean_latents(pipe)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    if kind == "flux":
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        clean = pipe._pack_latents(clean, 1, 4, 8, 16)
    else:
        scheduler.set_timesteps(steps)
    makers = {"sd3": velocity_of_sd3, "flux": velocity_of_flux}
    source, target = (makers[kind](pipe, prompt) for prompt in (SOURCE, TARGET))
    timesteps = [float(one) for one in scheduler.timesteps][skip:]
    times = [one / 1000 for one in timesteps] + [0.0]
    generator = torch.Generator().manual_seed(seed)
    noises = [torch.randn(clean.shape, generator=generator, dtype=torch.float64) for _ in timesteps]
    edited = clean
    for i, timestep in enumerate(timesteps):
        noised = (1 - times[i]) * clean + times[i] * noises[i]
        moved = noised + edited - clean
        change = target(moved, timestep, scales[0]) - source(noised, timestep, scales[1])
        edited = edited + (times[i + 1] - times[i]) * change
    return clean, edited


@pytest.mark.parametrize("scales", [(5.0, 2.0), (3.0, 3.0)], ids=["two scales", "one scale"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_flow_edit(pipes, kind, scales):
    pipe = pipes[kind]
    source = invert_with(
        pipe, picture(), SOURCE, "difference:skip=0.4", num_inference_steps=5, seed=2, **SIZE
    )
    drawn = source.edit(
        TARGET, guidance_scale=scales[0], source_guidance_scale=scales[1], **DRAWN
    ).images
    kept, expected = flow_edit(pipe, kind, 5, 2, scales, seed=2)
    assert largest(drawn[:1] - kept) == 0
    assert largest(drawn[1:] - expected) < 1e-12 * largest(expected)
    assert largest(expected - kept) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_equal_to_the_prompt_is_the_picture(pipes, kind):
    source = invert_with(pipes[kind], picture(), SOURCE, num_inference_steps=4, seed=2, **SIZE)
    kept, again = source.edit(SOURCE, guidance_scale=3.0, source_guidance_scale=3.0, **DRAWN).images
    assert largest(again - kept) < 1e-12 * largest(kept)
    assert torch.equal(kept, source.path.latents[-1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_one_batch_are_those_drawn_alone(pipes, kind):
    source = invert_with(pipes[kind], picture(), SOURCE, num_inference_steps=4, seed=2, **SIZE)
    both = source.edit([TARGET, OTHER], **DRAWN).images
    for row, prompt in enumerate([TARGET, OTHER], start=1):
        assert largest(source.edit(prompt, **DRAWN).images[1] - both[row]) < 1e-12 * largest(both)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_edits_take_part(pipes, kind):
    source = invert_with(pipes[kind], picture(), SOURCE, num_inference_steps=4, seed=2, **SIZE)
    plain = source.edit(TARGET, **DRAWN).images
    edited = source.edit(TARGET, edits=[Reweight(target=1, weights={"dog": 3.0})], **DRAWN).images
    assert torch.equal(plain[0], edited[0])
    assert largest(plain[1] - edited[1]) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_decoded_by_the_pipeline_which_stays_as_it_was(pipes, kind):
    pipe = pipes[kind]
    scheduler, config = pipe.scheduler, dict(pipe.config)
    source = invert_with(pipe, picture(), SOURCE, num_inference_steps=3, seed=2, **SIZE)
    images = source.edit(TARGET, max_sequence_length=24).images
    assert [one.size for one in images] == [(64, 32)] * 2
    assert pipe.scheduler is scheduler
    assert dict(pipe.config) == config
    assert not pipe.transformer._forward_hooks
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed shift", "shift by size"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_timesteps_are_those_of_the_pipeline_s_own_run(kind, dynamic):
    pipe = {"sd3": sd3, "flux": flux}[kind]()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    pipe(SOURCE, num_inference_steps=4, **SIZE, **DRAWN)
    theirs = tuple(float(one) for one in pipe.scheduler.timesteps)
    latents = torch.zeros(1, 4, 8, 16)
    assert (
        get_flow_pipeline_adapter(pipe).build_pipeline_noise_levels(4, latents).timesteps == theirs
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_settings_are_the_defaults(pipes, kind):
    adapter = get_flow_pipeline_adapter(pipes[kind])
    source = invert_with(pipes[kind], picture(), SOURCE, seed=2, **SIZE)
    assert len(source.path.steps) == {"sd3": 33, "flux": 24}[kind]
    scales = adapter.guidance_scale, adapter.source_guidance_scale
    assert scales == {"sd3": (13.5, 3.5), "flux": (5.5, 1.5)}[kind]


def test_a_flux_model_that_reads_no_guidance_scale_is_edited_without():
    pipe = flux()
    source = invert_with(pipe, picture(), SOURCE, num_inference_steps=4, seed=2, **SIZE)
    kept, drawn = source.edit(TARGET, **DRAWN).images
    assert largest(drawn - kept) > 1e-3
    with pytest.raises(ArgumentError, match="a Flux model that does not read one, such as"):
        source.edit(TARGET, guidance_scale=3.0, **DRAWN)


def test_other_pipelines_and_schedulers_are_refused_in_words():
    own = PromptEditPipeline(**tiny_sd_components())
    with pytest.raises(ArgumentError, match=r"Got a PromptEditPipeline.*PromptEditPipeline\.inv"):
        invert_with(own, picture(), SOURCE)
    pipe = sd3()
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ArgumentError, match="with DDIMScheduler, expected a scheduler of flow"):
        invert_with(pipe, picture(), SOURCE, **SIZE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "null-text"}, "method 'null-text.*' for a StableDiffusion3Pipeline: flow"),
        ({"method": NullTextInversion()}, "flow models of diffusers take difference alone"),
        ({"method": "diffrence"}, "Unknown inversion method 'diffrence'"),
        ({"prompt": None}, "Got None as the prompt of the picture"),
        ({"picture": "cat.png"}, "Got picture of type str, expected a Pillow image"),
        ({"num_inference_steps": 0}, "Got num_inference_steps=0"),
    ],
)
def test_wrong_arguments_are_refused_in_words(pipes, given, message):
    arguments = {"picture": picture(), "prompt": SOURCE} | SIZE | given
    with pytest.raises(ArgumentError, match=message):
        invert_with(pipes["sd3"], **arguments)


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (TARGET, {"latents": 3}, "Got latents for an edit: the picture or its path determines"),
        (3, {}, "Got 3 as target, expected a prompt"),
        ([], {}, r"Got \[\] as target"),
        (
            TARGET,
            {"guidance_scale": 1.0, "source_guidance_scale": 2.0},
            "without guidance of the targets, above 1, the source has none either",
        ),
    ],
)
def test_wrong_edits_are_refused_in_words(pipes, target, given, message):
    source = invert_with(pipes["sd3"], picture(), SOURCE, num_inference_steps=4, **SIZE)
    with pytest.raises(ArgumentError, match=message):
        source.edit(target, **DRAWN, **given)
