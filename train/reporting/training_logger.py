"""Reports of a run in progress: a bar with rate and time left, `log.jsonl`, and TensorBoard."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i.atomic_files import build_write_error, write_atomically
from t2i.errors import ArgumentError
from t2i.optional_dependencies import build_install_command
from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_text
from t2i.terminal import KEPT_WHITESPACE, escape_controls, print_note_to_stderr

if TYPE_CHECKING:
    from rich.progress import Progress


Number = int | float
Numbers = Sequence[float]


class TrainingLogger:
    """Logger of a training run on its main process: progress bar, `log.jsonl` and TensorBoard."""

    def __init__(self, out: Path, start: int, steps: int, *, tensorboard: bool) -> None:
        self.start, self.steps = start, steps
        self._began = time.monotonic()
        self._log = LogFile(out / "log.jsonl", start)
        self._board = open_tensorboard(out / "tensorboard", start) if tensorboard else None
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = build_rich_progress_bar()
            self._task = self._bar.add_task("training", total=steps, completed=start, facts="")
            self._bar.start()

    def move_progress_bar_to(self, step: int) -> None:
        """Move the progress bar to a step, if there is one."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log_step(self, step: int, facts: Mapping[str, float]) -> None:
        """Log the metrics of one step to `log.jsonl`, TensorBoard and the terminal.

        The rate, in steps per second, counts from when this process began.
        """
        rate = (step - self.start) / max(time.monotonic() - self._began, 1e-9)
        self._log.write({"step": step, **facts, "steps_per_s": rate})
        if self._board is not None:
            for name, value in facts.items():
                self._board.add_scalar(name, value, step)
        text = f"loss {facts['loss']:.4f}  {rate:.2f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, facts=text)
        else:
            left = format_hms((self.steps - step) / max(rate, 1e-9))
            self.print_line(f"step {step}/{self.steps}  {text}  {left} left")

    def log_validation(self, step: int, loss: float, by_level: Sequence[float]) -> None:
        """Log the validation loss after a step, its mean and by noise level, to `log.jsonl`,
        TensorBoard and the terminal.
        """
        self._log.write({"step": step, "validation_loss": loss, "validation_by_level": by_level})
        if self._board is not None:
            self._board.add_scalar("validation_loss", loss, step)
            for number, value in enumerate(by_level):
                self._board.add_scalar(f"validation_by_level/{number}", value, step)
        self.print_line(f"step {step}/{self.steps}  validation loss {loss:.4f}")

    def log_remark(self, step: int, text: str) -> None:
        """Print a text for the user about one step, and write it to `log.jsonl`."""
        self._log.write({"step": step}, text)
        self.print_line(f"step {step}/{self.steps}  {text}")

    def print_line(self, text: str) -> None:
        """Print a line on the terminal, above the progress bar if there is one."""
        if self._bar is not None:
            with suppress(OSError):  # the terminal is gone
                self._bar.console.print(
                    escape_controls(text, KEPT_WHITESPACE), markup=False, highlight=False
                )
        else:
            print_note_to_stderr(text)

    def close(self) -> None:
        """Close the training run's progress bar and TensorBoard."""
        if self._bar is not None:
            with suppress(OSError):  # the terminal is gone
                self._bar.stop()
        if self._board is not None:
            self._board.close()


class LogFile:
    """Writer of a training run's `log.jsonl`, a line per logged step; opened by a resumed run, it
    cuts off the lines after the checkpoint's step.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        if path.exists():
            lines = read_text(path, RUN_FILE_KIND.copy_with_noun("log")).splitlines()
            kept = "".join(
                line + "\n" for line in lines if start and parse_log_step_or_infinity(line) <= start
            )
            write_atomically(path, lambda part: part.write_text(kept, "utf-8"))

    def write(self, facts: Mapping[str, Number | Numbers], remark: str | None = None) -> None:
        """Append values as one line of JSON to the training log.

        Raises an error with the path if it cannot be written.
        """
        values: dict[str, object] = {
            name: none_if_nonfinite(value)
            if isinstance(value, Number)
            else [*map(none_if_nonfinite, value)]
            for name, value in facts.items()
        }
        if remark is not None:
            values["remark"] = remark
        line = json.dumps({**values, "time": round(time.time(), 3)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise build_write_error(self.path, error) from error


def none_if_nonfinite(value: Number) -> Number | None:
    """Return the number, or None for NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def parse_log_step_or_infinity(line: str) -> float:
    """Return the step number in a line of a training log (`log.jsonl`); infinity for an incomplete
    line.
    """
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut short


def build_rich_progress_bar() -> "Progress":
    """Build rich's progress bar on stderr. rich is imported here, as that takes time."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.completed}/{task.total}"),
        progress.TextColumn("{task.fields[facts]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def open_tensorboard(folder: Path, start: int) -> Any:
    """Open a TensorBoard writer that continues after step `start`.

    Raises ArgumentError if it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArgumentError(
            f"train.tensorboard = true needs TensorBoard: {build_install_command('track')}, "
            "or set it to false."
        ) from error
    return SummaryWriter(str(folder), purge_step=start + 1)


def format_hms(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
