"""Ctrl-C, SIGTERM and SIGHUP during long work: finished results stay whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from t2i.run_folder import StopRequest


class SignalInterrupt(KeyboardInterrupt):
    """Interrupt by a signal: `number` is the signal, `exit_code` the code that a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code of a process that this signal ends."""
        return 128 + self.number


class SignalStop(StopRequest):
    """Stop request that turns the first signal into SignalInterrupt.

    It is raised at once within an `interruptible` block, else where the next one begins. Further
    signals are ignored, as launchers repeat those that the terminal sends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._number: int | None = None
        self._interruptible = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Allow a signal to raise SignalInterrupt within the block."""
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
