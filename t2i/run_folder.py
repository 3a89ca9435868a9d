"""One run, one folder: who may write there, and when to stop."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from t2i.atomic_files import cannot_write
from t2i.errors import OutputError

LOCK = "run.lock"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that is closed."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one run; a kill lets go. Raises OutputError when another holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"Another run is writing to {folder}: wait for it, stop it, or choose another folder "
            "with --out."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error


class Stopped(Exception):
    """Somebody asked to stop before there was a step to save."""


class StopRequest:
    """Turns the first of SIGNALS into a wish to stop; the second acts at once.

    In a thread beside the main one, which alone may answer signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # as nohup wants it
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = True
        for waiting in self._before:
            signal.signal(waiting, signal.SIG_DFL)
