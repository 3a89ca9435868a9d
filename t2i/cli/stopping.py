"""Ctrl-C and SIGTERM during long work: what is finished stays whole."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop: `number` is the signal, `exit_code` what a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class Stopping:
    """Turns the first SIGINT or SIGTERM into Stopped: at once in work that may be dropped, else
    where such work begins. Further ones are ignored, as launchers send what a terminal has sent.
    """

    def __init__(self) -> None:
        self._wanted: int | None = None
        self._droppable = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Raises Stopped, in its midst too."""
        self._droppable = True
        try:
            if self._wanted is not None:
                raise Stopped(self._wanted)
            yield
        finally:
            self._droppable = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first, self._wanted = self._wanted is None, self._wanted or number
        if first and self._droppable:
            raise Stopped(number)
