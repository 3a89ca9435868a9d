"""Controls of a recorded source, which its edits need again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.run.controlled_run import check_control_networks_fit_pipeline
from t2i.controls.control import Control
from t2i.controls.control_facts import control_to_dict
from t2i.errors import ArgumentError
from t2i.terminal import plural


def add_controls_to_source(
    pipe: Any, source: RecordedSource, controls: Sequence[Control]
) -> RecordedSource:
    """Return a recorded source with the controls of its run, for its edits to use.

    controls : given to the edit; none for those that the source has kept, which one that was loaded
        from a folder has not

    Raises ArgumentError unless they are those of the recorded run.
    """
    check_control_networks_fit_pipeline(pipe, controls)
    chosen = tuple(controls) or source.controls
    recorded = source.facts.get("controls", [])
    if len(chosen) != len(recorded):
        raise ArgumentError(
            f"The source was recorded with {plural(len(recorded), 'control')}, and its edit has "
            f"{len(chosen)}: give those of the recording, controls=[...], or record it again."
        )
    for number, (control, facts) in enumerate(zip(chosen, recorded, strict=True)):
        own = control_to_dict(control)
        wrong = [name for name in own if own[name] != facts.get(name)]
        if wrong:
            raise ArgumentError(
                f"Control {number} differs from that of the recorded source in its "
                f"{' and '.join(wrong)}: give the same, or record the source again."
            )
    return replace(source, controls=chosen)
