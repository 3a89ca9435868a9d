"""Progress of work before the first step: a bar on a terminal, otherwise lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from t2i.terminal import print_note_to_stderr
from train.reporting.training_logger import build_rich_progress_bar

AdvanceFunction = Callable[[int], None]
"""Callback with the number of items finished since the last call."""
LINE_INTERVAL_SECONDS = 30.0
"""Seconds between lines where there is no bar."""


@contextmanager
def showing_setup_progress(what: str, total: int, done: int = 0) -> Iterator[AdvanceFunction]:
    """Show progress within the block, as a bar on a terminal, else as lines on stderr; yield the
    function that advances it.
    """
    if sys.stderr.isatty():
        with build_rich_progress_bar() as shown:
            task = shown.add_task(what, total=total, completed=done, facts="")
            yield lambda count: shown.advance(task, count)
    else:
        print_note_to_stderr(f"{what}: {total - done} to do")
        yield ProgressLinePrinter(what, total, done).advance


class ProgressLinePrinter:
    """Progress display that prints lines on stderr: one per 30 seconds, and one at the end."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.done = what, total, done
        self._last_line = time.monotonic()

    def advance(self, count: int) -> None:
        """Add a number of finished items to the setup progress of a training run, and print a
        progress line if one is due.
        """
        before, self.done = self.done, min(self.done + count, self.total)
        finished = before < self.done == self.total
        if finished or time.monotonic() - self._last_line >= LINE_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            print_note_to_stderr(f"{self.what} {self.done}/{self.total}")
