"""What cannot be inverted is refused in words, before anything is computed or written."""

import dataclasses

import pytest
import torch
from diffusers import EDMEulerScheduler

from pipelines.inversion.methods import parse_method
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from t2i.conditioning.guidance import Conditional
from t2i.errors import ArgumentError, DataError
from tests.tiny import picture, tiny_sd_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, TARGET = "a red cat", "a red dog"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0, "seed": 1}


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


def test_a_missing_source_prompt_is_refused_in_words(pipe):
    with pytest.raises(ArgumentError, match=r"as the prompt of the picture.*Give ''"):
        pipe.invert(picture(), None, **RUN)


def test_what_is_no_picture_is_refused_in_words(pipe):
    with pytest.raises(ArgumentError, match="Got picture of type int, expected the path of a PNG"):
        pipe.invert(3, SOURCE, **RUN)
    with pytest.raises(DataError, match=r"No such picture: cat\.png\. Check the path"):
        pipe.invert("cat.png", SOURCE, **RUN)
    with pytest.raises(DataError, match="Web addresses are not read"):
        pipe.invert("https://example.org/cat.png", SOURCE, **RUN)


def test_an_unknown_method_is_refused_before_anything_is_written(pipe, tmp_path):
    with pytest.raises(ArgumentError, match="Unknown inversion method 'dirct'"):
        pipe.invert(picture(), SOURCE, "dirct", folder=tmp_path / "source", **RUN)
    assert not (tmp_path / "source").exists()


def test_arguments_that_a_method_sets_itself_are_refused(pipe):
    with pytest.raises(ArgumentError, match=r"Got negative_prompt \(--negative\) for the method t"):
        pipe.invert(picture(), SOURCE, "turbo", negative_prompt="a dog", **RUN)
    with pytest.raises(ArgumentError, match=r"Got guidance \(--method\) for the method negative-"):
        pipe.invert(picture(), SOURCE, "negative-prompt", guidance=Conditional(), **RUN)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("null-text:learning_rate=0", "Got learning_rate=0.0, expected a number above 0"),
        ("negative-prompt:quantile=5", "Got quantile=5.0"),
    ],
)
def test_arguments_of_a_method_out_of_range_are_refused(method, message):
    with pytest.raises(ArgumentError, match=message):
        parse_method(method)


def test_noise_of_a_device_that_is_missing_here_is_refused_in_words(pipe):
    source = pipe.invert(picture(), SOURCE, "edit-friendly", **RUN)
    source.facts["generator"] = "nowhere"
    with pytest.raises(DataError, match="a generator on 'nowhere', which cannot be restored here"):
        pipe(source, TARGET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_inference_steps": 0}, "Got num_inference_steps=0, expected a whole number from 1"),
        ({"budget": "4"}, "Got budget='4', expected a number of bytes"),
        ({"folder": 3}, "Got folder=3, expected a path"),
        ({"targets": 3}, "Got target of type int"),
    ],
)
def test_arguments_of_another_type_are_refused_in_words(pipe, given, message):
    with pytest.raises(ArgumentError, match=message):
        pipe.invert(picture(), SOURCE, **RUN | given)


def test_a_recording_is_loaded_from_a_path():
    with pytest.raises(ArgumentError, match="Got folder=None, expected a path"):
        load_recorded_source(None)


def test_one_target_may_be_given_as_text(pipe):
    source = pipe.invert(picture(), "a cat", targets="a dog", num_inference_steps=2)
    assert source.facts["inversion"].startswith("turbo")


def test_a_method_of_one_s_own_needs_a_name(pipe):
    with pytest.raises(ArgumentError, match="Got int as inversion method"):
        pipe.invert(picture(), SOURCE, 3, **RUN)


def test_null_text_without_guidance_is_refused_before_any_pass(pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", lambda *_, **__: pytest.fail("a pass ran"))
    with pytest.raises(ArgumentError, match="null-text optimises the unconditional embedding"):
        pipe.invert(picture(), SOURCE, "null-text", guidance=Conditional(), num_inference_steps=2)


def test_a_scheduler_without_noise_path_is_refused_in_words():
    parts = tiny_sd_components() | {"scheduler": EDMEulerScheduler()}
    with pytest.raises(ArgumentError, match="cannot be inverted with EDMEulerScheduler"):
        quiet(parts).invert(picture(), SOURCE, **RUN)


def test_a_source_of_another_model_is_refused_in_words(pipe, precise):
    source = pipe.invert(picture(), SOURCE, "edit-friendly", **RUN)
    with pytest.raises(ArgumentError, match="The source was recorded with"):
        precise(source, TARGET)


def test_the_budget_is_refused_early(pipe, tmp_path):
    with pytest.raises(ArgumentError, match="Recording this source takes"):
        pipe.invert(picture(), SOURCE, folder=tmp_path / "source", budget=1000, **RUN)
    assert not (tmp_path / "source").exists()


def test_a_changed_folder_is_refused(pipe, tmp_path):
    pipe.invert(picture(), SOURCE, "edit-friendly", folder=tmp_path / "source", **RUN)
    manifest = tmp_path / "source" / "remembered.json"
    manifest.write_text(manifest.read_text().replace('"clean"', '"klean"', 1))
    with pytest.raises(DataError, match=r"not a recorded source|has changed"):
        load_recorded_source(tmp_path / "source")


def test_settings_of_a_path_are_numbers(pipe):
    source = pipe.invert(picture(), SOURCE, "edit-friendly", **RUN)
    assert all(isinstance(dataclasses.asdict(step)["clean"], float) for step in source.path_steps)
