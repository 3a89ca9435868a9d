"""Lock of a run's folder, and requests to stop by signal."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from t2i.atomic_files import build_write_error
from t2i.errors import OutputError

LOCK_FILE = "run.lock"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that is closed."""


@contextmanager
def locking_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on `folder`; the system releases it when the process dies.

    Raises OutputError when another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise build_write_error(folder, error) from error
    try:
        _acquire_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _acquire_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"Another run is writing to {folder}: wait for it, stop it, or choose another folder "
            "with --out."
        ) from None
    except OSError as error:
        raise build_write_error(folder, error) from error


class StoppedDuringSetup(Exception):
    """Exception that ends a training run when a stop was requested during its setup."""


class StopSignalHandler:
    """Context manager that handles SIGINT, SIGTERM and SIGHUP: the first signal sets `wanted`, as a
    request to stop, and a second one ends the process as usual.

    In a thread beside the main one, where Python installs no signal handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
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
