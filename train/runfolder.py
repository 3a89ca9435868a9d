"""One run, one folder: who may write there, when to stop, and the log."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from t2i.errors import OutputError
from t2i.files import cannot_write, write_atomically


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one run; a kill lets go. Raises OutputError when another holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OutputError(
            f"Another run is writing to {folder}: wait for it, stop it, or choose another folder "
            "with --out."
        ) from None
    finally:
        os.close(descriptor)


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a wish to stop; the second acts at once."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(number, signal.SIG_DFL)


class Log:
    """`log.jsonl`, a line per logged step. On resuming, lines after the checkpoint are cut off."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        if path.exists():
            lines = path.read_text("utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= start]
            text = "".join(line + "\n" for line in kept)
            write_atomically(path, lambda part: part.write_text(text, "utf-8"))

    def write(self, facts: Mapping[str, Any]) -> None:
        line = json.dumps({**facts, "time": round(time.time(), 3)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut short
