"""Progress of an evaluation: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from t2i.evaluate.suite_part import SuitePart
from t2i.terminal import print_note_to_stderr

LINE_INTERVAL = 15.0
"""Seconds between two printed lines of progress."""


@contextmanager
def showing_suite_progress(parts: Sequence[SuitePart]) -> Iterator[Callable[[str, int], None]]:
    """Context manager that shows the progress of an evaluation within the block, as a bar or lines.
    Yields a function to call with a part's name and the count of its finished units.
    """
    with showing_progress({part.name: len(part.list_unit_keys()) for part in parts}) as update:
        yield update


@contextmanager
def showing_progress(totals: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
    """Show the progress of long work within the block, a bar or lines.

    totals : name -> number of units

    Yields a function to call with a name and the count of its finished units.
    """
    if not sys.stderr.isatty():
        yield ProgressLinePrinter(totals).update
        return

    from train.reporting.training_logger import build_rich_progress_bar

    with build_rich_progress_bar() as progress_bar:
        tasks = {
            name: progress_bar.add_task(name, total=total, facts="", start=False)
            for name, total in totals.items()
        }

        def advance(name: str, finished: int) -> None:
            task = tasks[name]
            if not progress_bar.tasks[task].started:
                # What an earlier start has done says nothing of the time that this one takes.
                progress_bar.start_task(task)
            progress_bar.update(task, completed=finished)

        yield advance


class ProgressLinePrinter:
    """Printer of an evaluation's progress as lines, where there is no terminal for a bar."""

    def __init__(self, totals: dict[str, int]) -> None:
        self._totals = totals
        self._name = ""
        self._before = 0
        self._begun = self._printed = 0.0

    def update(self, name: str, finished: int) -> None:
        """Print a line of progress at most every LINE_INTERVAL seconds, and at the ends."""
        now, total = time.monotonic(), self._totals[name]
        if name != self._name:
            self._name, self._before, self._begun = name, finished, now
            self._print(f"{name} {finished}/{total}", now)
        elif finished == total or now - self._printed >= LINE_INTERVAL:
            rate = (finished - self._before) / max(now - self._begun, 1e-9)
            left = format_hours_minutes_seconds((total - finished) / max(rate, 1e-9))
            self._print(f"{name} {finished}/{total}, {left} left", now)

    def _print(self, text: str, now: float) -> None:
        print_note_to_stderr(text)
        self._printed = now


def format_hours_minutes_seconds(seconds: float) -> str:
    """Format seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
