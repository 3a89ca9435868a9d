"""Inversion of a request's photo to a recorded source, and the description of its error."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.call_arguments import (
    build_sampling_and_control_arguments,
    set_progress_bar,
)
from t2i.cli.output import print_remark
from t2i.cli.request.photo_inversion import PhotoInversion
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.inversion.inversion_run import InversionMethod
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.edits.base.edit import Edit


def invert_photo(
    editor: "PromptEditPipeline",
    request: Request,
    seed: int,
    *,
    show_progress: bool = True,
    folder: Path | None = None,
    budget_bytes: int | None = None,
    notes: Mapping[str, object] | None = None,
    for_edits: "Sequence[Edit]" = (),
) -> "RecordedSource":
    """Invert the photo of a request with the prompt that describes it, and print the error.

    show_progress : whether to show progress bars, and to print the method, the size and the error
    budget_bytes : most bytes of the recording; None for the default
    folder, notes, for_edits : see PromptEditPipeline.invert
    """
    from pipelines.prompt_to_prompt.edit_run import find_image_size
    from pipelines.prompt_to_prompt.inverted_source import resolve_inversion_method
    from pipelines.prompt_to_prompt.recording import DEFAULT_BUDGET_BYTES

    assert request.image is not None
    assert request.inversion is not None
    height, width = find_image_size(editor, request.height, request.width)
    method = resolve_inversion_method(editor, request.inversion.method)
    if show_progress:
        _print_forecast(editor, request, method, (height, width), for_edits)
    set_progress_bar(editor, "inversion", shown=show_progress)
    prompt = request.prompt if request.edited is None else request.edited.chained_source_prompts[0]
    source = editor.invert(
        expanduser(request.image.path),
        request.parse_prompt_in_grammar(prompt),
        method,
        folder=folder,
        budget=DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes,
        height=height,
        width=width,
        notes=notes,
        for_edits=for_edits,
        fit=request.inversion.fit,
        mask=None if request.mask is None else expanduser(request.mask.path),
        **build_sampling_and_control_arguments(editor, request, seed),
    )
    if show_progress:
        assert source.photo is not None
        print_remark(f"The photo: {source.photo.fitting.description}")
        print_remark(describe_inversion_error(source))
    return source


def replace_auto_inversion_method(
    pipe: "TextToImagePipeline",
    request: Request,
    pairs: Iterable[tuple[str, str]],
    weights: Mapping[str, float],
) -> Request:
    """Return the request with the method that "auto" stands for; unchanged for any other.

    With a negative prompt or a guidance method it is one that leaves these to the request.

    pairs : source and target of each edit of the photo
    weights : weighted words of the targets
    """
    from pipelines.inversion.methods import format_method
    from pipelines.prompt_to_prompt.automatic_edits import classify_prompt_change, has_word
    from pipelines.prompt_to_prompt.inverted_source import resolve_inversion_method

    if request.inversion is None or request.inversion.method.strip().lower() != "auto":
        return request
    assert request.num_inference_steps is not None
    changes = []
    own_guidance = bool(request.negative_prompt or request.guidance_method)
    for pair in () if own_guidance else pairs:
        source, target = (request.parse_prompt_in_grammar(text) for text in pair)
        weighted = any(has_word(target, word) for word in weights)
        steps = request.num_inference_steps
        changes.append(classify_prompt_change(source, target, steps, weighted=weighted))
    method = format_method(resolve_inversion_method(pipe, "auto", changes))
    return replace(request, inversion=replace(request.inversion, method=method))


def copy_request_with_inversion(request: Request, source: "RecordedSource") -> Request:
    """Return the request with the size, the method and the error of its photo's inversion."""
    error, facts = source.error, source.facts
    inversion = replace(
        request.inversion or PhotoInversion(),
        method=facts["inversion"],
        replay=None if error is None or error.replay is None else round(error.replay, 2),
        autoencoder=None if error is None else round(error.autoencoder, 2),
    )
    return replace(request, inversion=inversion, width=facts["width"], height=facts["height"])


def describe_inversion_error(source: "RecordedSource") -> str:
    """Describe how well a photo is reproduced from its inversion, and by the autoencoder alone."""
    error = source.error
    assert error is not None
    replay = (
        "The method reproduces its path exactly"
        if error.replay is None
        else f"Drawn again from its noise, the photo is reproduced at {error.replay:.1f} dB"
    )
    return f"{replay}; the autoencoder alone: {error.autoencoder:.1f} dB"


def format_bytes(size: int) -> str:
    """Format a number of bytes for people, such as "17 MB" or "1.2 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.3g} MB"


def _print_forecast(
    editor: "PromptEditPipeline",
    request: Request,
    method: "InversionMethod",
    size: tuple[int, int],
    for_edits: "Sequence[Edit]",
) -> None:
    """Print the method and the size of the recording, before it is made."""
    from pipelines.inversion.methods import format_method
    from pipelines.prompt_to_prompt.inverted_source import count_path_steps
    from pipelines.prompt_to_prompt.recording_size import estimate_recording_bytes
    from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit

    assert request.image is not None
    assert request.num_inference_steps is not None
    steps = count_path_steps(method, request.num_inference_steps)
    read = [edit for edit in for_edits if isinstance(edit, SourceRowsEdit)]
    most = editor.find_max_kept_layout_positions(*size)
    needed = estimate_recording_bytes(editor, steps, *size, most, read)
    print_remark(
        f"Inverting {Path(request.image.path).name} by {format_method(method)}; its recording "
        f"takes about {format_bytes(needed)}"
    )
