"""Generation of the image of a request: the pipeline it needs, and the arguments of its call."""

import inspect
import warnings
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i.cli.gc_control import restore_gc
from t2i.cli.generation.time_estimate import RunTimeEstimateNotice
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.request import Request, RequestDefaults
from t2i.library_messages import mute_diffusers_warnings

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pipelines.base.pipeline import Pipeline
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.text_to_image import TextToImagePipeline
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
    restore_gc()
    return pipe


def build_named_scheduler(sampler: str | None, config: Any) -> "Scheduler | None":
    """Build the scheduler that a sampler's name stands for; None for the model's own."""
    from t2i.denoiser.schedulers import build_scheduler

    if sampler is None or sampler == config.get("_class_name"):
        return None
    return build_scheduler(sampler, config)


def find_pipeline_class(request: Request) -> "type[Pipeline]":
    """Return the pipeline class that a request needs: inpainting, image- or text-to-image."""
    if request.mask is not None:
        from pipelines.inpaint import InpaintPipeline

        return InpaintPipeline
    if request.image is not None:
        from pipelines.image_to_image import ImageToImagePipeline

        return ImageToImagePipeline
    from pipelines.text_to_image import TextToImagePipeline

    return TextToImagePipeline


def read_pipeline_defaults(pipe: "TextToImagePipeline", request: Request) -> RequestDefaults:
    """Return the defaults of the pipeline that a request needs, for arguments left open."""
    kind = find_pipeline_class(request)
    strength = inspect.signature(kind.__call__).parameters.get("strength")
    return RequestDefaults(
        **kind.fallback_defaults(is_sdxl=pipe.text_encoder_2 is not None),
        sampler=type(pipe.scheduler).__name__,
        strength=None if strength is None else strength.default,
    )


def generate_image(
    pipe: "TextToImagePipeline", request: Request, seed: int, *, bar: bool = True
) -> "Image":
    """Generate the image of a request and seed, with the adapters attached to the pipeline.

    bar : whether to show a progress bar on a terminal
    """
    if request.edited is not None:
        return generate_edited_images(pipe, request, seed, bar=bar)[request.edited.picture]
    drawer = _convert_pipeline(pipe, find_pipeline_class(request))
    _set_progress_bar(drawer, seed, bar)
    with RunTimeEstimateNotice(shown=bar) as first_step:
        pictures: list[Image] = drawer(
            prompt=request.parse_with_grammar(request.prompt),
            return_dict=False,
            callback_on_step_end=first_step,
            **_sampling_arguments(request, seed),
            **_image_arguments(pipe, request),
        )[0]
    return pictures[0]


def upscale_if_requested(
    pipe: "TextToImagePipeline",
    request: Request,
    seed: int,
    picture: "Image",
    *,
    bar: bool = True,
) -> "Image":
    """Upscale a generated image if the request asks for it, otherwise return it unchanged."""
    if request.upscale is None:
        return picture
    from pipelines.image_to_image import ImageToImagePipeline
    from pipelines.upscaling import upscale

    drawer = _convert_pipeline(pipe, ImageToImagePipeline)
    _set_progress_bar(drawer, seed, bar)
    with RunTimeEstimateNotice(shown=bar) as first_step:
        pictures: list[Image] = upscale(
            drawer,
            picture,
            request.parse_with_grammar(request.prompt),
            factor=request.upscale.factor,
            strength=request.upscale.strength,
            return_dict=False,
            callback_on_step_end=first_step,
            **_sampling_arguments(request, seed),
            **_image_prompt_arguments(request),
        )[0]
    return pictures[0]


def generate_edited_images(
    pipe: "TextToImagePipeline", request: Request, seed: int, *, bar: bool = True
) -> "list[Image]":
    """Generate the source and target images of a request with prompt edits, the source first.

    An edit that acts in no step of so short a run is left out with a warning.
    """
    from pipelines.prompt_to_prompt.automatic_edits import covers_any_step

    assert request.edited is not None
    assert request.num_inference_steps is not None
    source, *targets = (request.parse_with_grammar(prompt) for prompt in request.edited.prompts)
    editor = build_prompt_to_prompt_pipeline(pipe)
    _set_progress_bar(editor, seed, bar)
    edits = request.edited.parse_edits()
    with RunTimeEstimateNotice(shown=bar) as first_step:
        pictures: list[Image] = editor(
            source,
            targets,
            edits=[edit for edit in edits if covers_any_step(edit, request.num_inference_steps)],
            width=request.width,
            height=request.height,
            return_dict=False,
            callback_on_step_end=first_step,
            **_sampling_arguments(request, seed),
        )[0]
    return pictures


def build_prompt_to_prompt_pipeline(pipe: "TextToImagePipeline") -> "PromptEditPipeline":
    """Return a prompt-to-prompt pipeline with the components of a text-to-image pipeline."""
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline

    # from_pipe would cast every part, and say so.
    zeros = pipe.config.get("force_zeros_for_empty_prompt", True)
    return PromptEditPipeline(**pipe.components, force_zeros_for_empty_prompt=zeros)


def _convert_pipeline(pipe: "Pipeline", kind: "type[Pipeline]") -> Any:
    """Return a pipeline of that class with the same components and attached adapters."""
    if isinstance(pipe, kind):
        return pipe
    with mute_diffusers_warnings():  # it gives advice on a precision that stays what it is
        return kind.from_pipe(pipe)  # type: ignore[no-untyped-call]  # diffusers has no types


def _set_progress_bar(drawer: "Pipeline", seed: int, bar: bool) -> None:
    """Show a progress bar; none where standard error is no terminal (disable=None)."""
    settings = {"desc": f"seed {seed}", "disable": None if bar else True, "leave": False}
    drawer.set_progress_bar_config(**settings)  # type: ignore[no-untyped-call]  # as above


def _sampling_arguments(request: Request, seed: int) -> dict[str, Any]:
    """Return the arguments of the call that do not depend on the kind of pipeline."""
    import torch

    from t2i.conditioning.guidance_registry import parse_guidance

    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    method = request.guidance_method
    return {
        "negative_prompt": request.parse_with_grammar(request.negative_prompt),
        "guidance": None if method is None else parse_guidance(method, request.guidance_scale),
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        # Drawn on the CPU, so that a seed means the same picture on every device.
        "generator": torch.Generator("cpu").manual_seed(seed),
    }


def _image_arguments(pipe: "TextToImagePipeline", request: Request) -> dict[str, object]:
    """Return the arguments of the call for its size and its input images.

    An input image is resized to the requested size; left open, it keeps its own, rounded down to a
    multiple of the pixels per latent.
    """
    from t2i.denoiser.families import sd
    from t2i.pictures import open_picture

    seen = _image_prompt_arguments(request)
    if request.image is None:
        return seen | {"width": request.width, "height": request.height}
    image = _open_rgb(request.image)
    factor = sd.pixels_per_latent(pipe.vae)
    width, height = (
        max(side // factor, 1) * factor if asked is None else asked
        for asked, side in zip((request.width, request.height), image.size, strict=True)
    )
    sd.latent_size(pipe.vae, height, width)
    seen |= {"image": _resize_image(image, width, height), "strength": request.strength}
    if request.mask is not None:
        # As it is painted: where it is clear is for the pipeline to read.
        mask = _resize_image(open_picture(Path(expanduser(request.mask.path))), width, height)
        seen |= {"mask_image": mask, "width": width, "height": height}
    return seen


def _image_prompt_arguments(request: Request) -> dict[str, object]:
    """Return the image prompt of an IP-Adapter as an argument of the call."""
    if request.image_prompt is None:
        return {}
    return {"ip_adapter_image": _open_rgb(request.image_prompt)}


def warn_of_large_size(pipe: "TextToImagePipeline", request: Request) -> None:
    """Warn if a request generates more pixels from noise than its model was trained at.

    A longer side alone is no fault: SDXL was trained at 2048 x 512 too.
    """
    from t2i.denoiser.families import sd

    if request.image is not None:
        return
    height, width = sd.default_size(pipe.unet, pipe.vae)
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


def _open_rgb(file: InputFile) -> "Image":
    """Open an image in RGB, on white where it is transparent."""
    from pipelines.images.input_images import to_opaque_rgb
    from t2i.pictures import open_picture

    picture: Image = to_opaque_rgb(open_picture(Path(expanduser(file.path))))
    return picture


def _resize_image(picture: "Image", width: int, height: int) -> "Image":
    from PIL import Image

    same = picture.size == (width, height)
    return picture if same else picture.resize((width, height), Image.Resampling.LANCZOS)
