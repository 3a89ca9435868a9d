"""Checks that edits of a recorded source read nothing that was not recorded."""

from collections.abc import Sequence

from pipelines.run.run_facts import Facts
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.errors import ArgumentError

REPLAYABLE = (Replace, Refine, Reweight, SelfReplace, LocalBlend)
"""Edits that need nothing of their source but what is recorded."""


def check_replayable_edits(edits: Sequence[Edit], kept: Facts) -> None:
    """Raise ArgumentError for an edit that needs more of the source than was recorded."""
    for edit in edits:
        if getattr(edit, "target", None) == 0:
            raise ArgumentError(
                f"{type(edit).__name__} has target=0, which is the recorded source: it has been "
                "generated already. The targets count from 1."
            )
        source = getattr(edit, "source", None)
        if edit.needs_extra_passes or (source == 0 and not isinstance(edit, REPLAYABLE)):
            names = ", ".join(kind.__name__ for kind in REPLAYABLE)
            raise ArgumentError(
                f"{type(edit).__name__} cannot read a recorded source: only {names} can. Give "
                "the source as a prompt."
            )
        if isinstance(edit, SelfReplace):
            most = edit.max_positions
            if most is None or most > kept["max_positions"]:
                raise ArgumentError(
                    f"SelfReplace has max_positions={most}, but of this source only sites of at "
                    f"most {kept['max_positions']} were recorded: lower it, or record the source "
                    f"with max_positions={most or 64 * 64}."
                )
