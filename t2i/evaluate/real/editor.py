"""Pipeline that edits the pictures of a part of the suite, and its autoencoder alone."""

import torch
from PIL import Image

from pipelines.images.input_images import preprocess_images
from pipelines.prompt_to_prompt.inverted_source import encode_pixels_to_mean_latents
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.denoiser.schedulers import rebuild_scheduler_with_settings
from t2i.evaluate.suite_part import EvaluationContext


def build_independent_edit_pipeline(context: EvaluationContext) -> PromptEditPipeline:
    """Return a new prompt-editing pipeline for the evaluated model, with a scheduler of its own, so
    that nothing passes from one part of the evaluation to another.
    """
    zeros = context.pipe.config.get("force_zeros_for_empty_prompt", True)
    parts = context.pipe.components | {
        "scheduler": rebuild_scheduler_with_settings(context.pipe.scheduler)
    }
    editor = PromptEditPipeline(**parts, force_zeros_for_empty_prompt=zeros)
    editor.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers lacks types
    return editor


@torch.no_grad()
def reconstruct_with_autoencoder(editor: PromptEditPipeline, picture: Image.Image) -> Image.Image:
    """Return a picture as the model's autoencoder reproduces it: encoded to latents and decoded
    again, at its own size.
    """
    pixels_13YX = preprocess_images(
        editor.image_processor, "picture", picture, height=picture.height, width=picture.width
    )
    decoded = editor.decode_latents(encode_pixels_to_mean_latents(editor, pixels_13YX))
    pictures: list[Image.Image] = editor.image_processor.postprocess(decoded, "pil")
    return pictures[0]
