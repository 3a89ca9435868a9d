"""Notes during the first step of a run: that it is slow, and how long the whole run will take."""

import threading
import time
from typing import Any

from t2i.cli.output import print_remark
from t2i.terminal import plural

SLOW_FIRST_STEP_SECONDS = 5.0
"""Seconds of the first step after which a notice is printed."""
SLOW_RUN_SECONDS = 20.0
"""Seconds of the whole run above which an estimate is printed."""


class RunTimeEstimateCallback:
    """Step callback that prints how long a pipeline call will take; also its context manager."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.started = 0.0
        self.timer = threading.Timer(SLOW_FIRST_STEP_SECONDS, self._print_notice)
        self.timer.daemon = True

    def __enter__(self) -> "RunTimeEstimateCallback":
        self.started = time.monotonic()
        if self.shown:
            self.timer.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.timer.cancel()

    def _print_notice(self) -> None:
        print_remark(
            f"The first step takes more than {SLOW_FIRST_STEP_SECONDS:.0f} s; an estimate of the "
            "whole time follows it. A smaller --size is faster."
        )

    def __call__(
        self, pipe: Any, step: int, timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        if step == 0 and self.shown:
            self.timer.cancel()
            took = time.monotonic() - self.started
            whole = took * pipe.num_timesteps
            if whole > SLOW_RUN_SECONDS:
                print_remark(
                    f"The first of {plural(pipe.num_timesteps, 'step')} took "
                    f"{format_run_time(took)}: all steps will take about {format_run_time(whole)}, "
                    "plus decoding."
                )
        return {}


def format_run_time(seconds: float) -> str:
    """Format seconds for people, such as "8.2 s", "3 min" or "2.5 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
