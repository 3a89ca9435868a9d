"""Registration of our pipelines with diffusers' AutoPipelines, on import; `t2i` imports it.

`AutoPipelineForInpainting.from_pipe(pipe)` then returns an InpaintPipeline with the same parts.
"""

from typing import Any

from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline

PIPELINE_BY_AUTO_MAPPING: tuple[tuple[Any, type], ...] = (
    (AUTO_TEXT2IMAGE_PIPELINES_MAPPING, TextToImagePipeline),
    (AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, ImageToImagePipeline),
    (AUTO_INPAINT_PIPELINES_MAPPING, InpaintPipeline),
)

for task, pipeline in PIPELINE_BY_AUTO_MAPPING:
    task["t2i"] = pipeline
    # AutoPipelines look up the class they are given: this key is for PromptEditPipeline.
    task["t2i-prompt-edit"] = pipeline
AUTO_TEXT2IMAGE_PIPELINES_MAPPING["t2i-prompt-edit"] = PromptEditPipeline
