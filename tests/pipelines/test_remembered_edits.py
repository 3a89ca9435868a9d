"""Edit upon edit: the target of a recorded source is recorded as the next source."""

import pytest
import torch
from PIL import Image

from pipelines.inversion.methods import INVERSION_METHODS
from pipelines.inversion.path_scheduler import AddResidualsCallback
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from pipelines.run.call_state import CallOverrides
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import LocalBlend, Refine, Replace, SelfReplace, ShareKeysValues, attend
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError
from tests.sweeps import sweep
from tests.tiny import picture, tiny_sd_components, tiny_sdxl_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, FIRST, SECOND = "a red cat", "a red dog", "a blue dog"
RUN = {"num_inference_steps": 3, "guidance_scale": 3.0, "seed": 3}
NEAR = 1e-12
"""Of the largest latent, in float64."""


def quiet(components, dtype=torch.float64):
    pipe = PromptEditPipeline(**components).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return quiet(tiny_sd_components())


@pytest.fixture(scope="module")
def source(pipe):
    return pipe.remember(SOURCE, **RUN)


def assert_near(left, right, near=NEAR):
    difference = float((left - right).abs().max())
    assert difference <= near * max(1.0, float(right.abs().max())), difference


def assert_replays(pipe, source, near=NEAR):
    """The first edit, with all kinds of edits; then its prompt again, with and without any."""
    drawn = pipe(source, FIRST, blend=("cat", "dog"), output_type="latent").images[1]
    first = pipe.remember_target(source, FIRST, blend=("cat", "dog"))
    assert torch.equal(first.latents[0], drawn)
    for edits in ("auto", []):
        kept, again = pipe(first, FIRST, edits=edits, output_type="latent").images
        assert torch.equal(kept, drawn)
        assert_near(again, drawn, near)
    return first


@pytest.mark.parametrize("sampler", sweep(["euler a", "heun", "ddim", "dpm++ 2m"], quick=2))
def test_an_edit_whose_target_is_the_edited_image_is_that_image(sampler):
    parts = tiny_sd_components()
    pipe = quiet({**parts, "scheduler": build_scheduler(sampler, parts["scheduler"].config)})
    first = assert_replays(pipe, pipe.remember(SOURCE, **RUN))
    second = pipe(first, SECOND, output_type="latent").images[1]
    assert float((second - first.latents[0]).abs().max()) > 1e-3


# A pinned path, kept noises, and a path of two latents a step; the others are kinds of the first.
@pytest.mark.parametrize(
    "method", sweep(INVERSION_METHODS, quick=["direct", "edit-friendly", "bdia"])
)
def test_so_it_is_with_an_inverted_picture(pipe, method):
    few = "null-text:inner_steps=2" if method == "null-text" else method
    source = pipe.invert(picture(), SOURCE, few, **RUN)
    first = assert_replays(pipe, source)
    assert first.error.replay is None
    assert first.error.autoencoder == source.error.autoencoder
    assert first.facts["inversion"] == source.facts["inversion"]


def test_an_edit_of_an_edit_of_an_edit_is_that_image_too(pipe, source):
    first = pipe.remember_target(source, FIRST)
    second = pipe.remember_target(first, SECOND, edits=[Replace(), SelfReplace(max_positions=64)])
    drawn = pipe(first, SECOND, edits=[Replace(), SelfReplace(max_positions=64)])
    assert drawn.images[1] == second.image
    assert pipe(second, SECOND).images[1] == second.image
    assert second.facts["edit_of"] == {"text": FIRST}


def test_sdxl():
    pipe = quiet(tiny_sdxl_components())
    assert_replays(pipe, pipe.remember(SOURCE, **RUN))


def test_half_precision_loses_nothing():
    half = quiet(tiny_sd_components(), torch.bfloat16)
    first = half.remember_target(half.remember(SOURCE, **RUN), FIRST)
    again = half(first, FIRST, edits=[], output_type="latent").images[1]
    assert torch.equal(again, first.latents[0])


def test_a_target_drawn_without_edits_is_the_source_of_its_prompt(pipe, source):
    """Its residuals are rounding, and its later edits those of a source drawn by the prompt."""
    first = pipe.remember_target(source, FIRST, edits=[])
    drawn = pipe.remember(FIRST, **RUN)
    for step in range(RUN["num_inference_steps"]):
        assert float(first.residual_at(step).abs().max()) < 1e-12
        for name, tensor in drawn.steps[step].items():
            assert_near(first.steps[step][name], tensor)
    edits = [Refine(), SelfReplace(max_positions=64), LocalBlend(words=("dog", "dog"))]
    edited = [pipe(one, SECOND, edits=edits, output_type="latent").images for one in (first, drawn)]
    assert_near(*edited)


@pytest.mark.parametrize("method", [None, "edit-friendly", "direct"])
def test_an_edit_of_an_edit_equals_the_run_of_both_rows(pipe, source, method):
    """Both rows in one batch, each with the residuals: the first is the edited image, and the
    second reads its maps there.
    """
    if method is not None:
        source = pipe.invert(picture(), SOURCE, method, **RUN)
    edits = [Replace(), ShareKeysValues(steps=(1, 3))]
    first = pipe.remember_target(source, FIRST, for_edits=edits)
    alone = pipe(first, SECOND, edits=edits, output_type="latent").images
    overrides = first.call_overrides(pipe)
    if method is None:
        overrides = CallOverrides(None, [AddResidualsCallback(first.residual_at)])
    noise = torch.Generator(), torch.Generator()
    for one in noise:
        one.set_state(first.state)
    with pipe.overriding_calls(overrides), attend(pipe) as attn:
        for edit in edits:
            attn.edit(edit)
        both = TextToImagePipeline.__call__(
            pipe,
            [FIRST, SECOND],
            latents=None if first.noise is None else first.noise.repeat(2, 1, 1, 1),
            generator=list(noise),
            output_type="latent",
            num_inference_steps=3,
            guidance_scale=3.0,
        ).images
    assert_near(alone, both)


@pytest.mark.parametrize("method", sweep(["direct", "edit-friendly", "ddim"], quick=2))
def test_edits_upon_edits_have_the_photo_s_own_pixels_outside_of_its_mask(pipe, method):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    source = pipe.invert(picture(), SOURCE, method, mask=mask, **RUN)
    first = pipe.remember_target(source, FIRST)
    second = pipe.remember_target(first, SECOND)
    for edited in (first.image, second.image, pipe(second, FIRST).images[1]):
        assert edited.crop((16, 0, 32, 32)) == picture().crop((16, 0, 32, 32))
        assert edited.crop((0, 0, 8, 32)) != picture().crop((0, 0, 8, 32))
    again = pipe(first, FIRST, output_type="latent").images
    assert_near(again[1], again[0])


def test_negative_prompt_takes_the_prompt_of_the_new_source(pipe):
    source = pipe.invert(picture(), SOURCE, "negative-prompt", **RUN)
    first = pipe.remember_target(source, FIRST)
    assert source.facts["negative_prompt"] == {"text": SOURCE}
    assert first.facts["negative_prompt"] == {"text": FIRST}


def test_a_folder_gives_the_same_pictures(pipe, source, tmp_path):
    first = pipe.remember_target(source, FIRST, folder=tmp_path / "dog")
    again = load_recorded_source(tmp_path / "dog")
    assert again.image == first.image
    assert again.prompt == FIRST
    images = [pipe(one, SECOND, output_type="latent").images for one in (first, again)]
    assert torch.equal(*images)
    assert float((images[0][1] - images[0][0]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((SOURCE, FIRST), "Got a source of type str, expected a recorded one"),
        ((None, [FIRST, SECOND]), r"Got \['a red dog', 'a blue dog'\] as the target, expected one"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_words(pipe, source, given, message):
    with pytest.raises(ArgumentError, match=message):
        pipe.remember_target(given[0] or source, given[1])


def test_the_folder_of_the_source_is_not_overwritten(pipe, tmp_path):
    kept = pipe.remember(SOURCE, folder=tmp_path / "cat", **RUN)
    with pytest.raises(ArgumentError, match="record its edit in another folder"):
        pipe.remember_target(kept, FIRST, folder=tmp_path / "cat")
    assert load_recorded_source(tmp_path / "cat").prompt == SOURCE
