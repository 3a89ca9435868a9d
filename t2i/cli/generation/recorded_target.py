"""Recording of the target of a photo's edit in a folder, as the source of a next edit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.atomic_files import NameTakenError
from t2i.cli.generation.edited_images import EditedImages, build_prompt_to_prompt_pipeline
from t2i.cli.generation.inverted_photo import copy_request_with_inversion, format_bytes
from t2i.cli.generation.recorded_photo import REQUEST_NOTE_KEY
from t2i.cli.generation.sequential_edits import list_edits_to_record_for, record_first_target
from t2i.cli.metadata.writing import build_t2i_metadata
from t2i.cli.output import print_remark
from t2i.cli.request.request import Request
from t2i.errors import DataError
from t2i.safe_reading import parse_json

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit


def record_or_read_edit_target(
    pipe: "TextToImagePipeline",
    request: Request,
    seed: int,
    source: "RecordedSource",
    folder: Path,
    *,
    model_digest: str,
    budget_bytes: int | None,
    show_progress: bool = True,
) -> EditedImages:
    """Record the only target of a photo's edit in a folder, as a source for later edits, or read it
    where it is recorded already; return the image of the source and that of the target. It can be
    read by the edits that its source was recorded for, such as StyleAligned.

    A folder that has this recording already, as after a kill, is read. Raises NameTakenError for
    one that has anything else.

    show_progress : whether to show progress bars, and to print the size
    """
    request = copy_request_with_inversion(request, source)
    images = EditedImages(request, [], source)
    record = build_t2i_metadata(images.get_request(1), seed, model_digest)
    notes = {REQUEST_NOTE_KEY: record}
    target = read_recording_if_notes_match(folder, notes)
    if target is None:
        target = record_first_target(
            *(build_prompt_to_prompt_pipeline(pipe), request, source),
            show_progress=show_progress,
            folder=folder,
            budget_bytes=budget_bytes,
            notes=notes,
            for_edits=_list_edits_to_record_target_for(request, source),
        )
    if show_progress:
        print_remark(f"{format_bytes(target.bytes)} recorded")
    return EditedImages(request, [source.image, target.image], source)


def _list_edits_to_record_target_for(
    request: Request, source: "RecordedSource"
) -> "list[SourceRowsEdit]":
    """Return the edits that are to read a recorded target later, beside those that need no more
    than is always recorded: what its source was recorded for, and what its own edit reads of the
    source, such as `--style`.
    """
    from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
    from t2i.attention.edits.registry import from_dict

    edits: list[SourceRowsEdit] = []
    recorded = (from_dict(one) for one in source.facts.get("for_edits", ()))
    for edit in (*recorded, *list_edits_to_record_for(request)):
        if isinstance(edit, SourceRowsEdit) and edit not in edits:
            edits.append(edit)
    return edits


def read_recording_if_notes_match(folder: Path, notes: object) -> "RecordedSource | None":
    """Load the recorded source in a folder if it was recorded with the same notes; return None
    where there is no folder, or an empty one.

    Raises NameTakenError for a folder that has anything else.
    """
    from pipelines.prompt_to_prompt.recorded_source import load_recorded_source

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        source = load_recorded_source(folder)
    except DataError:
        raise NameTakenError(folder) from None
    if source.facts.get("notes") != parse_json(json.dumps(notes)):
        raise NameTakenError(folder)
    return source
