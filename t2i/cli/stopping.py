"""Ctrl-C, SIGTERM and SIGHUP during long work: finished results stay whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from t2i.run_folder import StopSignalHandler


class SignalInterrupt(KeyboardInterrupt):
    """KeyboardInterrupt that a signal raises, with the signal's number and exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Shell exit code of a process that this signal ends: 128 + number."""
        return 128 + self.number


class InterruptingStopHandler(StopSignalHandler):
    """Handler of stop signals that raises SignalInterrupt within interruptible blocks only.

    It is raised at once within an `interruptible` block, else where the next one begins. Further
    signals are ignored, as launchers repeat those that the terminal sends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._number: int | None = None
        self._interruptible = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a stop signal, also an earlier one, raise SignalInterrupt within the block."""
        self._interruptible = True
        try:
            if self._number is not None:
                raise SignalInterrupt(self._number)
            yield
        finally:
            self._interruptible = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first = not self.wanted
        if first:
            self.wanted, self._number = True, number
        if first and self._interruptible:
            raise SignalInterrupt(number)
