"""Generation of the image of a request: the pipeline it needs, and the arguments of its call."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i.cli.generation.call_arguments import (
    build_image_prompt_arguments,
    build_sampling_and_control_arguments,
    build_size_and_image_arguments,
    set_progress_bar,
)
from t2i.cli.generation.edited_images import generate_edited_images
from t2i.cli.generation.reference_pictures import (
    attending_to_reference_picture,
    is_reference_read_at_any_step,
)
from t2i.cli.request.request import Request, RequestDefaults
from t2i.cli.startup.gc_control import end_gc_delay_and_freeze
from t2i.cli.time_estimate import RunTimeEstimateCallback
from t2i.library_messages import muting_diffusers_warnings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base.pipeline import Pipeline
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.session.session import Session
    from t2i.denoiser.schedulers import Scheduler


def load_pipeline(
    folder: Path, sampler: str | None, device: "torch.device | None" = None
) -> "TextToImagePipeline":
    """Load a text-to-image pipeline onto a device, with the named sampler as its scheduler.

    sampler : name of the scheduler; None keeps the model's own
    """
    from pipelines.text_to_image import TextToImagePipeline
    from t2i import accelerate_state as process_state
    from t2i.denoiser.loading.weight_checks import read_json_object

    parts = {}
    if sampler is not None and folder.is_dir():
        # Before the weights: a mistyped name should not wait for gigabytes.
        config = read_json_object(folder / "scheduler" / "scheduler_config.json")
        if built := build_named_scheduler(sampler, config):
            parts["scheduler"] = built
    pipe = TextToImagePipeline.from_pretrained(folder, **parts)
    if folder.is_file():
        pipe.scheduler = build_named_scheduler(sampler, pipe.scheduler.config) or pipe.scheduler
    pipe.to(device or process_state.default_device())
    end_gc_delay_and_freeze()
    return pipe


def build_named_scheduler(sampler: str | None, config: Any) -> "Scheduler | None":
    """Build the scheduler that a sampler's name stands for; None for the model's own.

    config : of the model's own scheduler, whose noise schedule is kept
    Raises ArgumentError for an unknown name.
    """
    from t2i.denoiser.schedulers import build_scheduler

    if sampler is None or sampler == config.get("_class_name"):
        return None
    return build_scheduler(sampler, config)


def find_pipeline_class(request: Request) -> "type[Pipeline]":
    """Return the pipeline class that a request needs: inpainting, image- or text-to-image."""
    from pipelines.text_to_image import TextToImagePipeline

    if request.inversion is not None:
        return TextToImagePipeline
    if request.mask is not None:
        from pipelines.inpaint import InpaintPipeline

        return InpaintPipeline
    if request.image is not None:
        from pipelines.image_to_image import ImageToImagePipeline

        return ImageToImagePipeline
    return TextToImagePipeline


def read_pipeline_defaults(pipe: "TextToImagePipeline", request: Request) -> RequestDefaults:
    """Return the defaults of the pipeline that a request needs, for arguments left open."""
    kind = find_pipeline_class(request)
    strength = inspect.signature(kind.__call__).parameters.get("strength")
    return RequestDefaults(
        **kind.choose_fallback_defaults(is_sdxl=pipe.text_encoder_2 is not None),
        sampler=type(pipe.scheduler).__name__,
        strength=None if strength is None else strength.default,
    )


def generate_image_and_fill_request(
    pipe: "TextToImagePipeline",
    request: Request,
    seed: int,
    *,
    show_progress: bool = True,
    attention: "Session | None" = None,
) -> "tuple[Request, Image]":
    """Generate the image of a request and seed, with the adapters attached to the pipeline.

    Returns the request with what is known when it is generated, such as its size, and the image.

    show_progress : whether to show a progress bar on a terminal
    attention : session that is open on the pipeline already
    """
    if request.edited is not None or request.inversion is not None:
        generated = generate_edited_images(pipe, request, seed, show_progress=show_progress)
        number = 0 if request.edited is None else request.edited.picture
        return generated.get_request(number), generated.build_image_to_save(number)
    pipeline = convert_pipeline(pipe, find_pipeline_class(request))
    set_progress_bar(pipeline, f"seed {seed}", shown=show_progress)
    inputs = build_size_and_image_arguments(pipe, request)
    started: Any = inputs.get("image")
    with (
        attending_to_reference_picture(
            *(pipe, pipeline, request),
            None if started is None else started.size,
            request.strength,
            show_progress=show_progress,
        ),
        RunTimeEstimateCallback(shown=show_progress) as first_step,
        binding_words_to_regions(pipeline, request, attention),
    ):
        pictures: list[Image] = pipeline(
            prompt=request.parse_prompt_in_grammar(request.prompt),
            return_dict=False,
            callback_on_step_end=first_step,
            **build_sampling_and_control_arguments(pipe, request, seed),
            **inputs,
        )[0]
    (image,) = pictures
    return replace(request, width=image.width, height=image.height), image


def upscale_if_requested(
    pipe: "TextToImagePipeline",
    request: Request,
    seed: int,
    picture: "Image",
    *,
    show_progress: bool = True,
) -> "Image":
    """Upscale a generated image if the request asks for it, otherwise return it unchanged.

    The caches of the request are those of its first run alone: the second is too short for any.
    """
    if request.upscale is None:
        return picture
    from pipelines.image_to_image import ImageToImagePipeline
    from pipelines.upscaling import compute_scaled_side, upscale
    from t2i.denoiser.families import sd

    step = sd.pixels_per_latent(pipe.vae)
    width, height = (
        compute_scaled_side(side, request.upscale.factor, step) for side in picture.size
    )
    pipeline = convert_pipeline(pipe, ImageToImagePipeline)
    set_progress_bar(pipeline, f"seed {seed}", shown=show_progress)
    reading_reference = (
        attending_to_reference_picture(
            *(pipe, pipeline, request),
            (width, height),
            request.upscale.strength,
            show_progress=show_progress,
        )
        if is_reference_read_at_any_step(pipe, request, request.upscale.strength)
        else nullcontext()
    )
    with (
        reading_reference,
        RunTimeEstimateCallback(shown=show_progress) as first_step,
        binding_words_to_regions(pipeline, request),
    ):
        pictures: list[Image] = upscale(
            pipeline,
            picture,
            request.parse_prompt_in_grammar(request.prompt),
            factor=request.upscale.factor,
            strength=request.upscale.strength,
            return_dict=False,
            callback_on_step_end=first_step,
            **build_sampling_and_control_arguments(pipe, replace(request, cache=()), seed),
            **build_image_prompt_arguments(request),
        )[0]
    return pictures[0]


@contextmanager
def binding_words_to_regions(
    pipeline: "Pipeline", request: Request, attention: "Session | None" = None
) -> Iterator[None]:
    """Bind the words of a request to its boxes in the runs of a pipeline within the block.

    attention : session that is open on the pipeline already
    """
    if not request.regions:
        yield
        return
    from t2i.attention.attend import attend
    from t2i.attention.edits.regions import Regions

    edit = Regions([region.to_box_region() for region in request.regions])
    with nullcontext(attention) if attention is not None else attend(pipeline) as session:
        session.edit(edit)
        yield


def convert_pipeline(pipe: "Pipeline", kind: "type[Pipeline]") -> Any:
    """Return a pipeline of that class with the same components and attached adapters."""
    if isinstance(pipe, kind):
        return pipe
    with muting_diffusers_warnings():  # it gives advice on a precision that stays what it is
        return kind.from_pipe(pipe)  # type: ignore[no-untyped-call]  # diffusers has no types


def warn_of_large_size(pipe: "TextToImagePipeline", request: Request) -> None:
    """Warn if a request generates more pixels from noise than its model was trained at.

    A longer side alone is no fault: SDXL was trained at 2048 x 512 too.
    """
    from t2i.denoiser.families import sd

    if request.image is not None:
        return
    height, width = sd.default_height_and_width(pipe.unet, pipe.vae)
    asked_width, asked_height = request.width or width, request.height or height
    if asked_width * asked_height <= width * height:
        return
    factor = max(asked_width / width, asked_height / height)
    step = sd.pixels_per_latent(pipe.vae)
    sides = (max(round(side / factor / step), 1) * step for side in (asked_width, asked_height))
    warnings.warn(
        f"The model was trained at {width}x{height}: at {asked_width}x{asked_height} it repeats "
        "things, or draws several side by side. Draw at its size and enlarge that: "
        f"--size {'x'.join(map(str, sides))} --upscale {min(factor, 4):.3g}",
        stacklevel=2,
    )
