"""Ctrl-C, SIGTERM and SIGHUP during long work: what is finished stays whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from t2i.run_folder import StopRequest


class SignalInterrupt(KeyboardInterrupt):
    """Somebody asked to stop: `number` is the signal, `exit_code` what a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class SignalStop(StopRequest):
    """Turns the first signal that stops a run into Stopped: at once in work that may be dropped,
    else where such work begins. Further ones are ignored, as launchers send what a terminal has
    sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self._number: int | None = None
        self._droppable = False

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Raises Stopped, in its midst too."""
        self._droppable = True
        try:
            if self._number is not None:
                raise SignalInterrupt(self._number)
            yield
        finally:
            self._droppable = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first = not self.wanted
        if first:
            self.wanted, self._number = True, number
        if first and self._droppable:
            raise SignalInterrupt(number)
