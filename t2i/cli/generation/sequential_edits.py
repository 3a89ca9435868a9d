"""Edits of a photo upon edits of it: each target is recorded as the source of the next."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.call_arguments import set_progress_bar
from t2i.cli.generation.control_networks import build_controls
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from t2i.attention.edits.base.edit import Edit


def record_first_target(
    editor: "PromptEditPipeline",
    request: Request,
    source: "RecordedSource",
    *,
    show_progress: bool = True,
    folder: Path | None = None,
    budget_bytes: int | None = None,
    notes: Mapping[str, object] | None = None,
    for_edits: "Sequence[Edit]" = (),
) -> "RecordedSource":
    """Generate the first target of a request's prompt edit and return its recording, from which a
    next edit can start. `source` is the recording that is edited.

    show_progress : whether to show progress bars
    folder, budget_bytes, notes, for_edits : see PromptEditPipeline.remember_target
    """
    from pipelines.prompt_to_prompt.recorded_controls import add_controls_to_source
    from pipelines.prompt_to_prompt.recording import DEFAULT_BUDGET_BYTES

    source = add_controls_to_source(editor, source, build_controls(editor, request))
    edited = request.edited
    assert edited is not None
    set_progress_bar(editor, "edit", shown=show_progress)
    return editor.remember_target(
        source,
        request.parse_prompt_in_grammar(edited.prompts[1]),
        edits=_select_effective(edited.parse_edits(), source),
        folder=folder,
        budget=DEFAULT_BUDGET_BYTES if budget_bytes is None else budget_bytes,
        notes=notes,
        for_edits=for_edits,
    )


def record_source_after_earlier_edits(
    editor: "PromptEditPipeline",
    request: Request,
    source: "RecordedSource",
    *,
    show_progress: bool = True,
) -> "RecordedSource":
    """Apply a request's earlier edits one after the other to the recording of its photo, and return
    the recording from which its own edit starts; unchanged without earlier edits.
    """
    edited = request.edited
    if edited is None:
        return source
    targets = edited.chained_source_prompts[1:]
    for number, (edit, target) in enumerate(zip(edited.earlier, targets, strict=True), start=1):
        set_progress_bar(editor, "earlier edit", shown=show_progress)
        source = editor.remember_target(
            source,
            request.parse_prompt_in_grammar(target),
            edits=_select_effective(edit.parse_edits(), source),
            for_edits=list_edits_to_record_for(request, number),
        )
    return source


def list_edits_to_record_for(request: Request, number: int = 0) -> "list[Edit]":
    """Return the edits of a request that read more of their source than is always recorded: those
    of its photo, or of the target of one of the earlier edits.

    number : of the source: 0 is the photo, 1 the target of the first edit
    """
    from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit

    edited = request.edited
    if edited is None:
        return []
    edit = edited.earlier[number] if number < len(edited.earlier) else edited
    edits = edit.parse_edits()
    return [edit for edit in edits if isinstance(edit, SourceRowsEdit) and edit.source == 0]


def _select_effective(edits: "Sequence[Edit]", source: "RecordedSource") -> "list[Edit]":
    """Return the edits that act in any step of a recorded source; warn of others."""
    from pipelines.prompt_to_prompt.automatic_edits import acts_at_any_step

    return [edit for edit in edits if acts_at_any_step(edit, source.steps.count)]
