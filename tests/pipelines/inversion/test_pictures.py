"""A picture of one's own as a recorded source, on tiny models and on the embedded one."""

import copy
import warnings

import pytest
import torch
from PIL import Image

from pipelines.inversion.methods import INVERSION_METHODS, parse_method
from pipelines.inversion.null_text import NullTextInversion
from pipelines.prompt_to_prompt.inverted_source import resolve_inversion_method
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from t2i.attention import Replace
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.denoiser.schedulers import build_scheduler
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.sweeps import sweep
from tests.tiny import picture, tiny_sd_components, tiny_sdxl_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, TARGET = "a red cat", "a red dog"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0, "seed": 1}
TURBO = "turbo:max_last_residual=1e6"
REPLAYED = ("ddim", "ddim:iterations=1", "null-text:inner_steps=2", TURBO)
"""Methods whose source is what the model draws from the noise of the path."""
ROUNDING_IS_AMPLIFIED = ("bdia", "turbo:max_last_residual=1e6")
"""In float32 with random weights, to 3e-5; see the embedded model below."""
EXACT = ("edit-friendly", "edit-friendly:skip=0.25", "difference", "difference:keep=0.3", "bdia")


def quiet(components, dtype=torch.float32):
    pipe = PromptEditPipeline(**components).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return quiet(tiny_sd_components())


@pytest.fixture(scope="module")
def precise():
    return quiet(tiny_sd_components(), torch.float64)


def largest(difference):
    return float(difference.detach().abs().max())


FEW = {"null-text": "null-text:inner_steps=2"}
"""What a method's own settings make dear, made cheap."""


@pytest.mark.parametrize(
    "name", sweep(INVERSION_METHODS, quick=["direct", "null-text", "turbo", "bdia"])
)
def test_every_method_gives_a_source_whose_targets_are_drawn(pipe, name):
    """With the automatic edits, and each target the same again from the folder of the source."""
    source = pipe.invert(picture(), SOURCE, FEW.get(name, name), **RUN)
    images = pipe(source, [TARGET, "a red cat and a dog"], output_type="latent").images
    assert images.shape[0] == 3
    assert torch.equal(images[0], source.latents[0])
    assert largest(images[1] - images[0]) > 1e-3
    assert source.facts["inversion"].startswith(name)
    assert source.error.autoencoder > 0


@pytest.mark.parametrize(
    "name", sweep(["direct", "null-text", "negative-prompt", "bdia", "turbo"], quick=2)
)
def test_a_folder_gives_the_same_pictures(pipe, name, tmp_path):
    method = FEW.get(name, name)
    kept = pipe.invert(picture(), SOURCE, method, folder=tmp_path / "source", **RUN)
    again = load_recorded_source(tmp_path / "source")
    drawn = [pipe(one, TARGET, output_type="latent").images for one in (kept, again)]
    assert torch.equal(*drawn)
    assert again.error == kept.error
    assert again.path_steps == kept.path_steps
    assert torch.equal(again.photo_pixels, kept.photo_pixels)


# A method with another value of its setting is long.
@pytest.mark.parametrize(
    "name",
    sweep(
        [*EXACT, *REPLAYED],
        quick=["edit-friendly", "difference", "bdia", "ddim", "null-text:inner_steps=2", TURBO],
    ),
)
def test_a_target_equal_to_the_source_is_the_source(pipe, precise, name):
    """To rounding: 1e-5 in float32, 1e-12 in float64, of the largest latents of the path."""
    for one, near in ((pipe, 1e-5), (precise, 1e-12)):
        if name in ROUNDING_IS_AMPLIFIED and one is pipe:
            continue
        source = one.invert(picture(), SOURCE, name, **RUN)
        kept, again = one(source, SOURCE, edits=[], output_type="latent").images
        reach = max(largest(source.latents_after_step(i)) for i in range(source.steps.count))
        assert largest(again - kept) < near * max(reach, 1)
        assert (source.error.replay is None) == (name in EXACT)


@pytest.mark.parametrize("name", sweep(["direct", *EXACT, "negative-prompt"], quick=2))
def test_the_source_of_a_pinned_path_is_the_picture_s_own_latents(pipe, name):
    source = pipe.invert(picture(), SOURCE, name, **RUN)
    pixels = pipe.image_processor.preprocess(picture())
    own = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config["scaling_factor"]
    assert largest(source.latents - own) < 1e-6


def test_a_target_beside_a_recorded_path_is_that_of_both_rows(precise):
    """The recorded rows of the source are what its own row gives: an edit reads the same maps."""
    source = precise.invert(picture(), SOURCE, "direct", **RUN)
    alone = precise(source, TARGET, edits=[Replace()], output_type="latent").images[1]
    unedited = precise(source, TARGET, edits=[], output_type="latent").images[1]
    assert largest(alone - unedited) > 1e-6


def test_negative_prompt_replays_the_path_where_source_and_negative_are_one(precise):
    """Guidance between equal texts is none: as drawn without, whatever the scale."""
    source = precise.invert(picture(), SOURCE, "negative-prompt", **RUN)
    guided = precise(source, SOURCE, edits=[], output_type="latent").images[1]
    plain = precise.invert(picture(), SOURCE, "direct", **(RUN | {"guidance_scale": 1.0}))
    unguided = precise(plain, SOURCE, edits=[], output_type="latent").images[1]
    assert largest(guided - unguided) < 1e-10


def test_null_text_is_that_of_an_independent_optimisation(precise):
    """Algorithm 1 of the paper, written out with diffusers' scheduler and torch's Adam."""
    method = NullTextInversion(iterations=3, inner_steps=3)
    source = precise.invert(picture(), SOURCE, method, **RUN)
    path = precise.invert(picture(), SOURCE, "direct:iterations=3", **RUN)
    scheduler = copy.deepcopy(precise.scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(4)
    cond, uncond = precise.encode_prompt(SOURCE)[:2]
    latents, found = path.noise.double(), []
    for i, timestep in enumerate(scheduler.timesteps):
        end = path.latents_after_step(i)
        uncond = uncond.clone().requires_grad_()
        adam = torch.optim.Adam([uncond], lr=1e-2 * (1 - i / 100))
        with torch.no_grad():
            given = precise.unet(latents, timestep, cond).sample
        for _ in range(3):
            other = precise.unet(latents, timestep, uncond).sample
            guided = other + 3.0 * (given - other)
            moved = scheduler.step(guided, timestep, latents).prev_sample
            loss = (moved - end).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            if float(loss.detach()) < 1e-5 + i * 2e-5:
                break
        uncond = uncond.detach()
        with torch.no_grad():
            other = precise.unet(latents, timestep, uncond).sample
            guided = other + 3.0 * (given - other)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        found.append(uncond)
    for i, expected in enumerate(found):
        assert largest(source.uncond_embedding_at(i) - expected) < 1e-9, i
    assert largest(source.latents - latents) < 1e-9


def test_null_text_comes_nearer_to_the_path_than_guidance_alone(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimised = pipe.invert(picture(), SOURCE, "null-text:inner_steps=8", **RUN)
        plain = pipe.invert(picture(), SOURCE, "ddim", **RUN)
        path = pipe.invert(picture(), SOURCE, "direct", **RUN)
    assert largest(optimised.latents - path.latents) < largest(plain.latents - path.latents)


@pytest.mark.parametrize(
    "sampler", sweep(["dpm++ 2m karras", "heun", "ddpm", "euler", "euler a", "pndm"], quick=3)
)
def test_any_sampler_s_noise_levels_serve(pipe, sampler):
    scheduler = build_scheduler(sampler, pipe.scheduler.config)
    pipe = quiet(pipe.components | {"scheduler": scheduler})
    source = pipe.invert(picture(), SOURCE, "edit-friendly", **RUN)
    kept, again = pipe(source, SOURCE, edits=[], output_type="latent").images
    assert largest(again - kept) < 1e-5 * max(1, largest(source.noise))


def test_sdxl_is_inverted_and_edited():
    pipe = quiet(tiny_sdxl_components())
    source = pipe.invert(picture(), SOURCE, "edit-friendly", **RUN)
    kept, again = pipe(source, SOURCE, edits=[], output_type="latent").images
    assert largest(again - kept) < 1e-5 * max(1, largest(source.noise))
    assert largest(pipe(source, TARGET, output_type="latent").images[1] - kept) > 1e-3


def test_the_pipeline_keeps_its_scheduler(pipe):
    before = pipe.scheduler
    state = dict(vars(before))
    source = pipe.invert(picture(), SOURCE, "bdia", **RUN)
    pipe(source, TARGET)
    assert pipe.scheduler is before
    assert vars(pipe.scheduler).keys() == state.keys()
    assert pipe.step_callbacks == []
    drawn = [pipe("a cat", "a dog", seed=1, num_inference_steps=2).images[0] for _ in range(2)]
    assert drawn[0].tobytes() == drawn[1].tobytes()


def test_auto_suits_the_model(pipe):
    assert resolve_inversion_method(pipe, "auto") == parse_method("direct")
    parts = tiny_sd_components()
    parts["scheduler"] = build_scheduler("lcm", parts["scheduler"].config)
    assert resolve_inversion_method(quiet(parts), "auto") == parse_method("turbo")


@pytest.mark.parametrize(
    ("targets", "settings", "expected"),
    [
        (["a dog"], {}, "turbo"),
        (["a dog", "a red cat"], {}, "turbo"),
        (["a dog", "a cat and a dog"], {}, "direct"),
        (["a cat and a dog"], {}, "direct"),
        ([], {}, "direct"),
        (["a dog"], {"negative_prompt": "a frog"}, "direct"),
        (["a dog"], {"guidance": AdaptiveProjected(3.0)}, "direct"),
    ],
)
def test_auto_suits_the_targets(pipe, targets, settings, expected):
    source = pipe.invert(picture(), "a cat", targets=targets, num_inference_steps=2, **settings)
    assert parse_method(source.facts["inversion"]) == parse_method(expected)


@pytest.fixture(scope="module")
def embedded():
    pipe = PromptEditPipeline.from_pretrained("embedded")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def cat():
    """A composed scene, which the embedded model never drew."""
    config = SceneDatasetConfig(seed=991, max_objects=1, alone=1.0, vocabulary=["cat"])
    return Image.fromarray(SceneDataset(config).render_scene(0).pixels)


def test_a_poor_replay_is_said(embedded, cat):
    with pytest.warns(UserWarning, match="the picture is reproduced at .* dB only"):
        source = embedded.invert(cat, "a cat", "ddim", num_inference_steps=3, guidance_scale=9.0)
    assert source.error.replay < 20 < source.error.autoencoder


def test_an_autoencoder_that_loses_the_picture_is_said(pipe):
    """Also by methods that replay their path exactly: no other method would help."""
    said = r"reproduced at .* dB only, and by the autoencoder alone at .* dB: the model cannot show"
    for method in ("edit-friendly", "ddim"):
        with pytest.warns(UserWarning, match=said):
            source = pipe.invert(picture(), SOURCE, method, **(RUN | {"guidance_scale": 1.0}))
        assert source.error.autoencoder < 20


@pytest.mark.parametrize(
    ("steps", "iterations"),
    [
        (10, (4, 5)),
        *(pytest.param(steps, range(1, 9), marks=pytest.mark.long) for steps in (4, 6, 10)),
        pytest.param(20, (4, 5), marks=pytest.mark.long),
    ],
)
def test_more_iterations_replay_the_picture_no_worse(embedded, cat, steps, iterations):
    """Without guidance the fixed point is the picture itself, as the autoencoder keeps it; about
    its decibels those of the picture rise and fall by what the decoder makes of a rest of noise.
    The decibels are those of docs/decisions.md.
    """
    run = {"num_inference_steps": steps, "guidance_scale": 1.0}
    best = 0.0
    for number in iterations:
        error = embedded.invert(cat, "a cat", f"ddim:iterations={number}", **run).error
        assert error.replay > best - 0.25, f"{number} iterations are worse than fewer"
        best = max(best, error.replay)
    assert abs(best - error.autoencoder) < 0.5


@pytest.mark.parametrize("method", sweep(["bdia", "edit-friendly", TURBO], quick=2))
def test_the_embedded_model_replays_a_picture_to_rounding(embedded, cat, method):
    source = embedded.invert(cat, "a cat", method, num_inference_steps=3, seed=0)
    kept, again = embedded(source, "a cat", edits=[], output_type="latent").images
    assert largest(again - kept) < 1e-5 * max(1, largest(source.noise))
