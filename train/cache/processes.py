"""How the processes of a run encode together, and what they say of it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from t2i.errors import T2IError
from train.report import bar

Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Called with the number of entries made."""
SAID_EVERY = 30.0
"""Seconds between lines where there is no bar."""


def together(accelerator: Accelerator, action: Callable[[], Result]) -> list[Result]:
    """What the action gave on each process; what it raised on one is raised on all."""
    made: list[Result] = []
    failures: list[T2IError] = []
    try:
        made = [action()]
    except T2IError as error:
        failures = [error]
    if accelerator.num_processes > 1:
        made, failures = gather_object(made), gather_object(failures)
    if failures:
        raise failures[0]
    return made


def say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(accelerator: Accelerator, what: str, total: int) -> Iterator[Advance]:
    """A bar, or now and then a line, of what all processes do; the main one tells its own pace."""
    ranks = accelerator.num_processes
    if not accelerator.is_main_process:
        yield lambda count: None
    elif sys.stderr.isatty():
        with bar() as shown:
            task = shown.add_task(what, total=total, facts="")
            yield lambda count: shown.advance(task, count * ranks)
    else:
        say(accelerator, f"{what}: {total} to do")
        pace = Pace(what, total)
        yield lambda count: pace.advance(count * ranks)


class Pace:
    """Lines, so many seconds apart."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._said = time.monotonic()

    def advance(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        if time.monotonic() - self._said >= SAID_EVERY:
            self._said = time.monotonic()
            print(f"{self.what}: {self.done}/{self.total}", file=sys.stderr, flush=True)
