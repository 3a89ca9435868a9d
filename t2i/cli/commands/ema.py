"""`t2i ema`: the model of a run with a moving average of another length."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.cli.startup.gc_control import end_gc_delay_and_freeze
from t2i.terminal import print_result_line

MAX_PROFILE_ERROR = 0.05
"""Relative error of the averaging profile above which a note is printed."""


def write_post_hoc_ema(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    length: Annotated[
        float, typer.Option(help="Width of the average as a share of the run, such as 0.1.")
    ],
    step: Annotated[
        int | None, typer.Option(help="After which step; the last snapshot's by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the model; below RUN by default.")
    ] = None,
    format: FormatOption = "text",
) -> None:
    """Write the model of the training run RUN with a post-hoc EMA of another length.

    For runs with `ema.kind = "power"`: they keep snapshots, from which an average of any length can
    be rebuilt after training (arXiv 2312.02696). Short ones follow the last steps, long ones smooth
    more; which is best shows only in the pictures.
    """
    from train.posthoc_model import export_posthoc_ema_model

    end_gc_delay_and_freeze()
    rebuilt = export_posthoc_ema_model(run, length, step, out)
    if rebuilt.error > MAX_PROFILE_ERROR:
        print_remark(
            f"The snapshots reproduce the average of length {length:g} with an error of "
            f"{rebuilt.error:.0%}: choose a length nearer to ema.lengths, a step with a snapshot, "
            "or a smaller ema.snapshot_every next time."
        )
    if format == "json":
        print_json({**asdict(rebuilt), "folder": str(rebuilt.folder)})
    else:
        print_result_line(rebuilt.folder)
