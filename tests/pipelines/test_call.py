"""The arguments that every pipeline takes."""

from dataclasses import fields
from inspect import signature

import pytest

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.run.call import Call
from pipelines.text_to_image import TextToImagePipeline

DEFAULTS = {field.name: field.default for field in fields(Call)}
SCORES = {"aesthetic_score", "negative_aesthetic_score"}
PIPELINES = [TextToImagePipeline, ImageToImagePipeline, InpaintPipeline]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_takes_every_argument_of_a_call(pipeline):
    assert DEFAULTS.keys() - signature(pipeline.__call__).parameters.keys() <= SCORES


@pytest.mark.parametrize(
    "method",
    [*(pipeline.__call__ for pipeline in PIPELINES), PromptEditPipeline.remember],
    ids=lambda method: method.__qualname__,
)
def test_the_defaults_of_a_signature_are_those_of_a_call(method):
    parameters = signature(method).parameters
    own = {name: parameters[name].default for name in DEFAULTS if name in parameters}
    left_to_the_model = {"num_inference_steps": None, "guidance_scale": None}
    assert DEFAULTS["num_inference_steps"] == 50
    assert own == {name: DEFAULTS[name] for name in own} | left_to_the_model
