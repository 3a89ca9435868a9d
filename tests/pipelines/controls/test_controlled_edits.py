"""Controls in prompt edits: of prompts, of recorded sources and of photos."""

import json

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_controls import add_controls_to_source
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from pipelines.text_to_image import TextToImagePipeline
from t2i.controls.control import Control
from t2i.errors import ArgumentError
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.pipelines.test_remembered import assert_same
from tests.tiny import tiny_sd_components

SOURCE, TARGET = "a red cat", "a red dog"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def control(pipe):
    return Control(tiny_controlnet(pipe.unet), hint(1), 0.8, (0.0, 0.6), "control")


@pytest.fixture(scope="module")
def kept(pipe, control, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "source"
    return pipe.remember(SOURCE, seed=3, folder=folder, controls=[control], **RUN)


def test_a_control_steers_source_and_targets_of_an_edit(pipe, control):
    call = {"seed": 3, "output_type": "latent", **RUN}
    both = pipe(SOURCE, TARGET, controls=[control], **call).images
    free = pipe(SOURCE, TARGET, **call).images
    plain = TextToImagePipeline(**pipe.components)
    plain.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(3)
    alone = plain(SOURCE, generator=seed, controls=[control], output_type="latent", **RUN).images
    assert_same(alone, both[:1])
    for row in (0, 1):
        assert (both[row] - free[row]).abs().max() > 1e-2


def test_an_edit_of_a_recorded_source_uses_its_controls(pipe, control, kept):
    call = {"seed": 3, "output_type": "latent", **RUN}
    both = pipe(SOURCE, TARGET, controls=[control], **call).images
    assert_same(pipe(kept, TARGET, output_type="latent").images, both)
    assert_same(pipe(kept, TARGET, controls=[control], output_type="latent").images, both)


def test_an_edit_upon_an_edit_keeps_the_controls(pipe, control, kept):
    dog = pipe.remember_target(kept, TARGET)
    assert dog.controls == (control,)
    first = pipe(kept, TARGET, output_type="latent").images[1]
    assert torch.allclose(dog.latents[0], first, atol=1e-5)


def test_a_loaded_source_needs_its_controls_again(pipe, control, kept):
    loaded = load_recorded_source(kept.steps.folder)
    with pytest.raises(ArgumentError, match="was recorded with 1 control, and its edit has 0"):
        pipe(loaded, TARGET)
    with pytest.raises(ArgumentError, match="give those of the recording"):
        pipe.remember_target(loaded, TARGET)
    again = Control(control.model, hint(1), 0.8, (0.0, 0.6), "control")
    call = {"output_type": "latent"}
    expected = pipe(kept, TARGET, **call).images
    assert torch.equal(pipe(loaded, TARGET, controls=[again], **call).images, expected)
    attached = add_controls_to_source(pipe, loaded, [again])
    assert pipe.remember_target(attached, TARGET).controls == (again,)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"scale": 0.7}, "scale"), ({"picture": hint(2)}, "picture"), ({"steps": None}, "steps")],
)
def test_other_controls_than_the_recorded_ones_are_refused(pipe, control, kept, change, named):
    given = {"model": control.model, "picture": hint(1), "scale": 0.8}
    given |= {"steps": (0.0, 0.6), "mode": "control"}
    with pytest.raises(ArgumentError, match=f"Control 0 differs .* in its {named}:"):
        pipe(kept, TARGET, controls=[Control(**(given | change))])


def test_other_networks_than_the_recorded_ones_are_refused(pipe, control, kept):
    other = Control(tiny_controlnet(pipe.unet, 9), hint(1), 0.8, (0.0, 0.6), "control")
    with pytest.raises(ArgumentError, match="in its network"):
        pipe(kept, TARGET, controls=[other])


def test_a_source_recorded_without_controls_takes_none(pipe, control):
    free = pipe.remember(SOURCE, seed=3, num_inference_steps=2)
    with pytest.raises(ArgumentError, match="recorded with 0 controls, and its edit has 1"):
        pipe(free, TARGET, controls=[control])


def test_the_facts_of_a_control_are_json(pipe, kept):
    (facts,) = kept.facts["controls"]
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {"network", "picture", "scale", "steps", "mode", "mask", "blocks"}


@pytest.mark.filterwarnings("ignore:Drawn again from its noise")
@pytest.mark.parametrize(
    "method", ["direct:iterations=1", "edit-friendly", "null-text:inner_steps=1"]
)
def test_a_photo_is_inverted_and_edited_under_a_control(pipe, control, method):
    call = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 1}
    source = pipe.invert(hint(7), SOURCE, method, controls=[control], **call)
    free = pipe(source, TARGET, output_type="latent").images
    assert torch.isfinite(free).all()
    assert source.controls == (control,)
    if method == "edit-friendly":  # its residuals make an edit without change the source itself
        same = pipe(source, SOURCE, edits=[], output_type="latent").images
        assert torch.allclose(same[1], same[0], atol=1e-5)


def test_a_window_of_steps_means_the_same_noise_in_an_inversion(pipe, control):
    seen = []
    handle = control.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(float(args[1])), with_kwargs=True
    )
    window = Control(control.model, hint(1), steps=(0.0, 0.5))
    call = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 1}
    source = pipe.invert(hint(7), SOURCE, "direct:iterations=2", controls=[window], **call)
    handle.remove()
    # The noisier two of the four levels: twice in each direction of the inversion, then the source.
    noisy = sorted({*seen}, reverse=True)
    levels = [step.timestep for step in source.path_steps]
    assert noisy == levels[:2]
    assert seen[:4] == [noisy[1], noisy[1], noisy[0], noisy[0]]
