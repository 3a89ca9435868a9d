"""Checks that edits of a recorded source read nothing that was not recorded."""

from collections.abc import Sequence

from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.registry import from_dict
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.site import as_sites
from t2i.errors import ArgumentError

REPLAYABLE_EDITS = (Replace, Refine, Reweight, SelfReplace, LocalBlend)
"""Edits that need nothing of their source but what is always recorded."""


def check_edits_to_record_for(edits: object) -> None:
    """Raise ArgumentError unless these are edits for which a source may be recorded."""
    if not isinstance(edits, list | tuple) or not all(isinstance(edit, Edit) for edit in edits):
        raise ArgumentError(
            f"Got for_edits={edits!r:.80}, expected a list of the edits that are to read the "
            "source later, such as [ShareKeysValues()]."
        )
    for edit in edits:
        if isinstance(edit, SourceRowsEdit) and edit.source != 0:
            raise ArgumentError(
                f"Got {type(edit).__name__} with source={edit.source} in for_edits, expected "
                "source=0: the recorded source is prompt 0 of its edits."
            )
        check_reads_no_control(edit)


def check_replayable_edits(edits: Sequence[Edit], kept: RecordedSource) -> None:
    """Raise ArgumentError for an edit that needs more of the source than was recorded."""
    for edit in edits:
        if getattr(edit, "target", None) == 0:
            raise ArgumentError(
                f"{type(edit).__name__} has target=0, which is the recorded source: it has been "
                "generated already. The targets count from 1."
            )
        source = getattr(edit, "source", None)
        if source == 0:
            check_reads_no_control(edit)
        if isinstance(edit, SourceRowsEdit) and source == 0:
            check_rows_recorded(edit, kept)
            continue
        if edit.needs_extra_passes or (source == 0 and not isinstance(edit, REPLAYABLE_EDITS)):
            names = ", ".join(kind.__name__ for kind in REPLAYABLE_EDITS)
            raise ArgumentError(
                f"{type(edit).__name__} cannot read a recorded source: only {names}, "
                "ShareKeysValues, InjectQueriesKeys and StyleAligned can. Give the source as a "
                "prompt."
            )
        if isinstance(edit, SelfReplace):
            most, recorded = edit.max_positions, kept.facts["max_positions"]
            if most is None or most > recorded:
                raise ArgumentError(
                    f"SelfReplace has max_positions={most}, but of this source only sites of at "
                    f"most {recorded} were recorded: lower it, or record the source with "
                    f"max_positions={most or 64 * 64}."
                )


def check_reads_no_control(edit: Edit) -> None:
    """Raise ArgumentError for an edit that reads a recorded source in the network of a control."""
    if as_sites(edit.sites).is_limited_to_control_networks:
        raise ArgumentError(
            f"{type(edit).__name__} has sites={edit.sites!r}, in a control's network, of which "
            "nothing is recorded: give the source as a prompt, or choose sites of the UNet."
        )


def check_rows_recorded(edit: SourceRowsEdit, kept: RecordedSource) -> None:
    """Raise ArgumentError unless the source was recorded for this edit, or for one that reads as
    much.
    """
    num_passes = kept.steps.count
    recorded = [from_dict(one) for one in kept.facts.get("for_edits", ())]
    if any(
        isinstance(one, SourceRowsEdit) and one.reads_superset_of(edit, num_passes)
        for one in recorded
    ):
        return
    name = type(edit).__name__
    of_others = (
        "is recorded only on request, and was not for this source"
        if not recorded
        else f"was recorded for {', '.join(map(repr, recorded))} only"
    )
    raise ArgumentError(
        f"What {name} reads of its source in each branch of guidance {of_others}: record it with "
        f"for_edits=[{name}(...)], with the steps and sites of this edit, in remember() or "
        "invert(), or give the source as a prompt. For `t2i edit --style` record a photo with `t2i "
        "invert --for-style`."
    )
