"""Reference pictures of requests, recorded once and shared by the images that read them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from t2i.cli.generation.call_arguments import (
    build_guidance_and_step_arguments,
    set_progress_bar,
)
from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.output import print_remark
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.base.pipeline import Pipeline
    from pipelines.reference import RecordedReference
    from pipelines.text_to_image import TextToImagePipeline

RecordingKey = tuple[Request, float | None]
MAX_RECORDINGS = 2
"""Of one UNet: that of the image, and that of its upscaling."""
_recordings: "WeakKeyDictionary[Any, dict[RecordingKey, RecordedReference]]" = WeakKeyDictionary()
"""UNet -> what a recording depends on -> the recording, the newest last."""


@contextmanager
def attending_to_reference_picture(
    pipe: "TextToImagePipeline",
    drawer: "Pipeline",
    request: Request,
    size: tuple[int, int] | None,
    strength: float | None = None,
    *,
    show_progress: bool = True,
) -> Iterator[None]:
    """Let the runs of a pipeline within the block read the reference picture of a request, if it
    has one.

    pipe : with the model's parts; drawer : the pipeline that draws the image with them
    size : width and height of the image; None for that of the request or model
    strength : of a run that begins with a start picture, else None
    """
    if not request.references or not request.references[0].scale:
        _recordings.pop(pipe.unet, None)
        yield
        return
    from pipelines.prompt_to_prompt.edit_run import find_image_size
    from pipelines.reference import attending_to_reference

    width, height = (request.width, request.height) if size is None else size
    recorded = _get_or_record(
        *(pipe, request, find_image_size(pipe, height, width), strength),
        show_progress=show_progress,
    )
    with attending_to_reference(drawer, recorded, request.references[0].scale):
        yield


def is_reference_read_at_any_step(
    pipe: "TextToImagePipeline", request: Request, strength: float
) -> bool:
    """Return True if a request has a reference picture whose window has a step of a run that begins
    with a start picture, with this strength.
    """
    from pipelines.reference import list_run_timesteps
    from t2i.attention.site import list_steps_in_window

    if not request.references:
        return False
    assert request.num_inference_steps is not None
    timesteps = list_run_timesteps(pipe.scheduler, request.num_inference_steps, strength)
    return bool(list_steps_in_window(request.references[0].steps, len(timesteps)))


def _get_or_record(
    pipe: "TextToImagePipeline",
    request: Request,
    size: tuple[int, int],
    strength: float | None,
    *,
    show_progress: bool,
) -> "RecordedReference":
    """Return the recording of a request's reference picture: one that was made before for a request
    of the same settings, else a new one.

    It is made without what is of the image alone: controls, regions and caches.

    size : height and width of the image
    """
    (reference,) = request.references
    height, width = size
    settings = replace(
        request,
        prompt="",
        image=None,
        mask=None,
        strength=None,
        upscale=None,
        width=width,
        height=height,
        controls=(),
        regions=(),
        cache=(),
        references=(replace(reference, scale=1.0),),
    )
    recordings = _recordings.setdefault(pipe.unet, {})
    key = (settings, strength)
    if key not in recordings:
        while len(recordings) >= MAX_RECORDINGS:
            recordings.pop(next(iter(recordings)))
        recordings[key] = _record(pipe, settings, strength, show_progress=show_progress)
    return recordings[key]


def _record(
    pipe: "TextToImagePipeline", request: Request, strength: float | None, *, show_progress: bool
) -> "RecordedReference":
    from pipelines.reference import record_reference

    (reference,) = request.references
    editor = build_prompt_to_prompt_pipeline(pipe)
    set_progress_bar(editor, "reference", shown=show_progress)
    recorded = record_reference(
        editor,
        expanduser(reference.picture.path),
        request.parse_prompt_in_grammar(reference.prompt),
        steps=reference.steps,
        strength=strength,
        height=request.height,
        width=request.width,
        **build_guidance_and_step_arguments(request),
    )
    if show_progress:
        name = Path(reference.picture.path).name
        print_remark(f"The reference {name}: {recorded.description}")
    return recorded
