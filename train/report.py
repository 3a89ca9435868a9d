"""Progress of a run: a bar with rate and time left, or plain lines where nobody watches."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from t2i.errors import ArgumentError


class Reporter:
    """Shows steps on stderr; draws nothing when not `active`."""

    def __init__(self, start: int, steps: int, active: bool) -> None:
        self.start, self.steps, self.active = start, steps, active
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if active and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=steps, completed=start, facts="")
            self._bar.start()

    def rate(self, step: int) -> float:
        """Steps per second since this process began."""
        return (step - self.start) / max(time.monotonic() - self._began, 1e-9)

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def tell(self, step: int, facts: dict[str, Any]) -> None:
        if not self.active:
            return
        text = f"loss {facts['loss']:.4f}  {facts['steps_per_s']:.2f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, facts=text)
            return
        left = (self.steps - step) / max(facts["steps_per_s"], 1e-9)
        print(f"step {step}/{self.steps}  {text}  {_clock(left)} left", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.active:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def tensorboard(folder: str) -> Any:
    """A TensorBoard writer. Raises ArgumentError with the install command where it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArgumentError(
            "train.tensorboard = true needs TensorBoard: pip install 't2i[track]', "
            "or set it to false."
        ) from error
    return SummaryWriter(folder)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
