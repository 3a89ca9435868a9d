"""Steps and guidance that a call leaves out: the model's own, and else diffusers'."""

import json
from inspect import signature
from pathlib import Path

import diffusers
import pytest

import t2i
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.unclip.unclip import UnclipPipeline
from t2i.cli.request.request import read_model_defaults
from t2i.errors import ModelError
from tests.denoiser.tiny_models import kandinsky_components
from tests.tiny import tiny_sd_components, tiny_sd_folder, tiny_sdxl_components

OWN = {"num_inference_steps": 3, "guidance_scale": 2.5}
NOTES = {"defaults": {"steps": 3, "guidance_scale": 2.5, "sampler": "euler"}}
KINDS = [TextToImagePipeline, ImageToImagePipeline, InpaintPipeline]


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    folder = tiny_sd_folder(tmp_path_factory.mktemp("models") / "noted")
    (folder / "t2i.json").write_text(json.dumps(NOTES))
    return folder


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked_for(pipe):
    return {"num_inference_steps": pipe.num_timesteps, "guidance_scale": pipe.guidance_scale}


def test_a_loaded_model_is_called_as_it_likes_to_be(noted):
    pipe = quiet(t2i.load(str(noted)))
    pipe("cat", output_type="latent")
    assert asked_for(pipe) == OWN
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    pipe("cat", num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    assert asked_for(pipe) == {"num_inference_steps": 2, "guidance_scale": 1.0}


def test_every_pipeline_made_of_a_loaded_one_keeps_them(noted):
    pipe = t2i.load(str(noted))
    for made in (
        *(kind.from_pipe(pipe) for kind in KINDS),
        *(kind(**pipe.components) for kind in KINDS),
        PromptEditPipeline.from_pretrained(noted),
    ):
        assert made.defaults == OWN
    edit = quiet(PromptEditPipeline(**pipe.components))
    edit("a cat", "a dog", seed=1, output_type="latent")
    assert asked_for(edit) == OWN
    kept = edit.remember("a cat", seed=1)
    assert {name: kept.facts[name] for name in OWN} == OWN
    edit(kept, "a dog", output_type="latent")


def test_a_unet_of_ones_own_is_not_marked_with_the_folders_notes(noted):
    parts = tiny_sd_components()
    assert TextToImagePipeline.from_pretrained(noted, unet=parts["unet"]).defaults == OWN
    assert TextToImagePipeline(**parts).defaults["num_inference_steps"] == 50


def test_notes_are_saved_with_a_pipeline_that_was_made_of_a_loaded_one(noted, tmp_path):
    ImageToImagePipeline.from_pipe(t2i.load(str(noted))).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "t2i.json").read_text()) == NOTES


@pytest.mark.parametrize(
    ("ours", "sd", "sdxl"),
    [
        (TextToImagePipeline, "StableDiffusionPipeline", "StableDiffusionXLPipeline"),
        (
            ImageToImagePipeline,
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionXLImg2ImgPipeline",
        ),
        (InpaintPipeline, "StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    ],
)
def test_where_a_model_says_nothing_they_are_those_of_diffusers(ours, sd, sdxl):
    for parts, theirs in ((tiny_sd_components(), sd), (tiny_sdxl_components(), sdxl)):
        expected = signature(getattr(diffusers, theirs).__call__).parameters
        for name, value in ours(**parts).defaults.items():
            assert value == expected[name].default, (theirs, name)


def test_kandinskys_are_those_of_diffusers_too():
    pipe = quiet(UnclipPipeline(**kandinsky_components()))
    expected = signature(diffusers.KandinskyV22CombinedPipeline.__call__).parameters
    assert {name: expected[name].default for name in OWN} == pipe.defaults


def test_a_part_that_notes_leave_open_is_diffusers(noted, tmp_path):
    folder = tiny_sd_folder(tmp_path / "half")
    (folder / "t2i.json").write_text('{"defaults": {"steps": 3}}')
    assert t2i.load(str(folder)).defaults == {"num_inference_steps": 3, "guidance_scale": 7.5}


def test_notes_that_cannot_be_are_refused_at_loading(tmp_path):
    folder = tiny_sd_folder(tmp_path / "bad")
    (folder / "t2i.json").write_text('{"defaults": {"steps": "many"}}')
    with pytest.raises(ModelError, match=r"t2i.json: defaults.steps: .*Expected \{"):
        t2i.load(str(folder))


def test_python_and_the_command_line_agree_on_the_embedded_model():
    said = read_model_defaults(Path(t2i.__file__).parent / "assets" / "embedded")
    own = t2i.load("embedded").defaults
    assert own == {name: getattr(said, name) for name in own}
    assert own == {"num_inference_steps": 10, "guidance_scale": 3.0}
