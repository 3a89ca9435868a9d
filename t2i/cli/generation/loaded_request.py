"""A request with its model loaded and its adapters attached."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.adapters import AttachedAdapters
from t2i.cli.generation.image_generation import (
    load_pipeline,
    read_pipeline_defaults,
    warn_of_large_size,
)
from t2i.cli.prompt_checks.caption_vocabulary import read_caption_vocabulary
from t2i.cli.prompt_checks.prompt_checks import find_prompt_warnings
from t2i.cli.request.digests import compute_model_digest
from t2i.cli.request.file_checks import FileDigests
from t2i.cli.request.request import Request, read_model_defaults
from t2i.denoiser.loading.model_location import locate_model

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, slots=True)
class LoadedRequest:
    """Request with its loaded pipeline, ready to generate images.

    pipe : with the request's adapters attached
    request : with all fields set but the size
    model_digest : SHA-256 in hex, see compute_model_digest
    file_differences : a line for each file that differs from the recorded one
    """

    pipe: "TextToImagePipeline"
    request: Request
    model_digest: str
    file_differences: list[str]


@dataclass(frozen=True, slots=True)
class ModelWithDefaults:
    """Model that draws without progress bars, with its own sampling defaults.

    sampler : class name of its scheduler, or the sampler that its t2i.json names
    """

    pipe: "TextToImagePipeline"
    steps: int
    guidance_scale: float
    sampler: str | None


def load_model_with_defaults(folder: Path) -> ModelWithDefaults:
    """Load a model, and the steps, guidance scale and sampler with which it draws by itself."""
    request = Request(prompt="").with_defaults(read_model_defaults(folder))
    pipe = load_pipeline(folder, request.sampler)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    request = request.with_defaults(read_pipeline_defaults(pipe, request))
    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    return ModelWithDefaults(
        pipe, request.num_inference_steps, request.guidance_scale, request.sampler
    )


def load_model_for_request(request: Request, prompts: Sequence[str] = ()) -> LoadedRequest:
    """Load the model of a request, attach its adapters and fill in its defaults.

    prompts : all that are drawn together, where there are several; warnings are printed for prompts
        that may not be meant as written
    """
    digests = FileDigests()
    changed = digests.describe_changed_files(request)
    request = digests.copy_request_with_digests(request)
    folder = locate_model(request.model)
    request = request.with_defaults(read_model_defaults(folder))
    texts = [*(prompts or [request.prompt])]
    texts += [one.prompt for one in request.references if one.prompt]
    if request.inversion is not None:  # "" describes a photo without words
        texts = [text for text in texts if text]
    for warning in find_prompt_warnings(
        request, texts, request.model, read_caption_vocabulary(folder)
    ):
        warnings.warn(warning, stacklevel=2)
    pipe = load_pipeline(folder, request.sampler)
    AttachedAdapters(pipe).switch_to_request(request)
    request = request.with_defaults(read_pipeline_defaults(pipe, request))
    warn_of_large_size(pipe, request)
    return LoadedRequest(pipe, request, compute_model_digest(folder), changed)
