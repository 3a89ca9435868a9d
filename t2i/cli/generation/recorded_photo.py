"""Photos that `t2i invert` records in folders, with the requests that they were inverted for."""

import errno
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t2i.atomic_files import NameTakenError, build_write_error
from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.inverted_photo import (
    copy_request_with_inversion,
    format_bytes,
    invert_photo,
)
from t2i.cli.generation.loaded_request import LoadedRequest, load_model_for_request
from t2i.cli.metadata.t2i_json import parse_t2i_metadata
from t2i.cli.metadata.writing import build_t2i_metadata
from t2i.cli.output import print_json, print_remark
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.errors import DataError, ModelError
from t2i.library_messages import quieting_libraries
from t2i.terminal import print_result_line, showing_warnings_on_one_line

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource

REQUEST_NOTE_KEY = "t2i"
"""Name of the record of the request among the notes of a recorded source."""


@dataclass(frozen=True, slots=True)
class RecordedPhoto:
    """Photo that `t2i invert` has recorded in a folder, or `t2i edit --record` an edit of one, with
    its request and seed.
    """

    source: "RecordedSource"
    request: Request
    seed: int

    def load_model(self, prompts: Sequence[str]) -> LoadedRequest:
        """Load the model of the request for edits; the photo's file is not needed any more.

        prompts : all that are drawn together
        """
        request = self.request
        loaded = load_model_for_request(
            replace(request, image=None, mask=None, inversion=None, edited=None), prompts
        )
        return replace(
            loaded,
            request=replace(
                loaded.request,
                image=request.image,
                mask=request.mask,
                inversion=request.inversion,
                edited=request.edited,
            ),
        )


def invert_photo_to_folder(
    request: Request,
    seed: int,
    folder: Path,
    *,
    budget_bytes: int | None,
    as_json: bool,
    for_style: bool = False,
) -> None:
    """Invert the photo of a request, record it in a new folder, and print the error and the folder.

    seed : of the noise that some methods draw
    budget_bytes : most bytes of the recording; None for the default
    for_style : whether to record what StyleAligned reads of the photo, too
    """
    from t2i.attention.edits.style_aligned import StyleAligned

    check_folder_new_or_empty(folder)
    with showing_warnings_on_one_line() as warned, quieting_libraries():
        loaded = load_model_for_request(request)
        start = time.perf_counter()
        record = build_t2i_metadata(loaded.request, seed, loaded.model_digest)
        try:
            source = invert_photo(
                build_prompt_to_prompt_pipeline(loaded.pipe),
                loaded.request,
                seed,
                folder=folder,
                budget_bytes=budget_bytes,
                notes={REQUEST_NOTE_KEY: record},
                for_edits=[StyleAligned()] if for_style else [],
            )
        except KeyboardInterrupt:
            print_remark("Interrupted: nothing is written.")
            raise typer.Exit(130) from None
    request = copy_request_with_inversion(loaded.request, source)
    seconds = round(time.perf_counter() - start, 2)
    if as_json:
        facts = {"folder": str(folder), "bytes": source.bytes, "seed": seed, "seconds": seconds}
        print_json({"request": asdict(request), "warnings": warned} | facts)
        return
    print_remark(f"{format_bytes(source.bytes)} recorded, seed {seed}, {seconds} s")
    print_result_line(folder)


def check_folder_new_or_empty(folder: Path) -> None:
    """Raise NameTakenError for a folder that is not empty, and for a file; OutputError for a folder
    that cannot be made.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise NameTakenError(folder)
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise build_write_error(folder, NotADirectoryError(errno.ENOTDIR, "Not a directory"))
    if not os.access(nearest, os.W_OK):
        raise build_write_error(folder, PermissionError(errno.EACCES, "Permission denied"))


def read_recorded_photo(
    folder: Path, model: str | None, *, full_size: bool = False
) -> RecordedPhoto:
    """Read a photo's recorded source with the request that it was inverted for.

    model : name or path, instead of the recorded one, whose folder may have moved; None for that
    full_size : whether edits are put back into the photo at its own size

    The request of an edit has its prompts, and is that of its target.

    Raises DataError for a folder that the command line has not written, ModelError for a model that
    is not found here.
    """
    from pipelines.prompt_to_prompt.recorded_source import load_recorded_source

    source = load_recorded_source(folder)
    notes = source.facts.get("notes")
    record = notes.get(REQUEST_NOTE_KEY) if isinstance(notes, dict) else None
    if record is None:
        raise DataError(
            f"{folder} was recorded in Python, without the request that the command line needs to "
            "load its model: edit it there with PromptEditPipeline, or record the photo anew with "
            f't2i invert PHOTO "what it shows" --out FOLDER'
        )
    parsed = parse_t2i_metadata(json.dumps(record))
    if source.photo is None or parsed.request.image is None or parsed.request.inversion is None:
        raise DataError(
            f"{folder} records no photo, but a request of one: record the photo anew with t2i "
            "invert."
        )
    request = replace(parsed.request, model=model or parsed.request.model)
    if request.model not in EMBEDDED_MODELS and not Path(request.model).exists():
        # Looked for here alone: a folder must not make anybody download what it names.
        of_recording = f"{folder} was recorded with the model {request.model!r}, which"
        got = of_recording if model is None else f"Got --model {model!r:.80} for {folder}, which"
        raise ModelError(
            f"{got} is not found here. Give the folder of the recorded model with --model; those "
            "that are here are listed by: t2i models"
        )
    request = copy_request_with_inversion(request, source)
    assert request.inversion is not None
    request = replace(request, inversion=replace(request.inversion, full_size=full_size))
    return RecordedPhoto(source, request, parsed.seed)
