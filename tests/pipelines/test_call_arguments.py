"""Arguments that every pipeline takes."""

from dataclasses import fields
from inspect import signature

import pytest
import torch

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.run.call_arguments import CallArguments
from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import tiny_sd_components

DEFAULTS = {field.name: field.default for field in fields(CallArguments)}
SCORES = {"aesthetic_score", "negative_aesthetic_score"}
PIPELINES = [TextToImagePipeline, ImageToImagePipeline, InpaintPipeline]
IMAGES = {"image": torch.zeros(1, 3, 32, 32), "mask_image": torch.ones(1, 1, 32, 32)}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_takes_every_argument_of_a_call(pipeline):
    """Only the aesthetic scores may be missing from a signature."""
    assert DEFAULTS.keys() - signature(pipeline.__call__).parameters.keys() <= SCORES


@pytest.mark.parametrize(
    "method",
    [*(pipeline.__call__ for pipeline in PIPELINES), PromptEditPipeline.remember],
    ids=lambda method: method.__qualname__,
)
def test_the_defaults_of_a_signature_are_those_of_a_call(method):
    """Signatures repeat the defaults of CallArguments, but for the two that the model may set."""
    parameters = signature(method).parameters
    own = {name: parameters[name].default for name in DEFAULTS if name in parameters}
    left_to_the_model = {"num_inference_steps": None, "guidance_scale": None}
    assert DEFAULTS["num_inference_steps"] == 50
    assert own == {name: DEFAULTS[name] for name in own} | left_to_the_model


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_argument_reaches_the_run_under_its_name(pipeline, monkeypatch):
    """Each value given to `__call__` is the field of that name in the CallArguments of the run."""
    received = []
    monkeypatch.setattr(pipeline, "generate", lambda self, call, start: received.append(call))
    parameters = signature(pipeline.__call__).parameters
    given = {name: object() for name in DEFAULTS if name in parameters}
    images = {name: image for name, image in IMAGES.items() if name in parameters}
    pipeline(**tiny_sd_components())(**given, **images)
    (call,) = received
    assert {name: getattr(call, name) for name in given} == given
