"""How far something is that is made before the first step: a bar, or now and then a line."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from t2i.terminal import print_note
from train.reporting.report import bar

Advance = Callable[[int], None]
"""Called with the number of things made since the last call."""
SAID_EVERY = 30.0
"""Seconds between lines where there is no bar."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Within the block, tell how many of a total are made; `done` were there before."""
    if sys.stderr.isatty():
        with bar() as shown:
            task = shown.add_task(what, total=total, completed=done, facts="")
            yield lambda count: shown.advance(task, count)
    else:
        print_note(f"{what}: {total - done} to do")
        yield Lines(what, total, done).advance


class Lines:
    """Some seconds apart, and one at the end."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.done = what, total, done
        self._said = time.monotonic()

    def advance(self, count: int) -> None:
        before, self.done = self.done, min(self.done + count, self.total)
        finished = before < self.done == self.total
        if finished or time.monotonic() - self._said >= SAID_EVERY:
            self._said = time.monotonic()
            print_note(f"{self.what} {self.done}/{self.total}")
