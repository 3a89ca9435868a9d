"""Registration of our pipelines with diffusers' AutoPipelines, on import; `t2i` imports it.

`AutoPipelineForInpainting.from_pipe(pipe)` then returns an InpaintPipeline with the same parts.
"""

import sys
from typing import Any

from pipelines.base.auto_registration import AUTO_PIPELINES_MODULE, AutoRegistrationMixin
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline


def register_with_auto_pipelines() -> None:
    """Enter our classes into the tables of diffusers' AutoPipelines, which this imports."""
    from diffusers.pipelines.auto_pipeline import (
        AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        AUTO_INPAINT_PIPELINES_MAPPING,
        AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
    )

    pipeline_by_auto_mapping: tuple[tuple[Any, type], ...] = (
        (AUTO_TEXT2IMAGE_PIPELINES_MAPPING, TextToImagePipeline),
        (AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, ImageToImagePipeline),
        (AUTO_INPAINT_PIPELINES_MAPPING, InpaintPipeline),
    )
    for task, pipeline in pipeline_by_auto_mapping:
        task["t2i"] = pipeline
        # AutoPipelines look up the class they are given: this key is for PromptEditPipeline.
        task["t2i-prompt-edit"] = pipeline
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING["t2i-prompt-edit"] = PromptEditPipeline


AutoRegistrationMixin.register_with_auto_pipelines = register_with_auto_pipelines
if AUTO_PIPELINES_MODULE in sys.modules:
    register_with_auto_pipelines()
