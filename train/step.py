"""One optimizer step: the parts of a batch, backward, clipped, and looked at before it counts."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import DataError, OutputError, TrainingError
from t2i.randomness import derive_seed
from t2i.terminal import several
from train.bad_step_report import (
    FOLDER,
    BadStep,
    NotANumber,
    Show,
    broken_gradients,
    gradient_norms,
    rows_of_all,
)
from train.batches.batch import Batch
from train.batches.micro_batches import SAVE_MEMORY, cut, is_lost_peer
from train.config.run_config import RunConfig
from train.optim.learning_rate import rate
from train.optim.optimizer import build, set_rates
from train.parallel.fsdp import is_split, prepared, split
from train.parallel.processes import on_main
from train.targets.target import Target

SMALLEST_SCALE = 1.0
"""Of the gradients in fp16; a sound run never comes so low."""


@dataclass(slots=True)
class Outcome:
    """What one step measured."""

    loss: float
    grad_norm: float
    learning_rate: float
    updated: bool = True
    """False where the weights stayed: the gradients overflowed, or the step was skipped."""
    remarks: tuple[str, ...] = ()
    """What happened that a person should know."""

    def numbers(self) -> dict[str, float]:
        return {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "updated": self.updated,
        }


class Stepper:
    """The target under its optimizer, as Accelerate runs them.

    skipped : steps so far that were left out because their loss or gradient was no number
    rows : how many rows are computed at a time, once more of them did not fit into memory
    """

    def __init__(
        self,
        config: RunConfig,
        target: Target,
        accelerator: Accelerator,
        out: Path,
        show: Show,
    ) -> None:
        self.config, self.target, self.accelerator, self.out = config, target, accelerator, out
        groups = target.groups()
        now = split(target, accelerator)
        self.optimizer = build(
            config.optimizer,
            [replace(group, parameters=[now[p] for p in group.parameters]) for group in groups],
        )
        self._model, self._accelerated = prepared(target, self.optimizer, accelerator)
        self._show = show
        self.skipped = 0
        self.rows: int | None = None
        self._fitting: set[tuple[int, ...]] = set()

    def state(self) -> dict[str, int | None]:
        """What a checkpoint keeps."""
        return {"skipped": self.skipped, "rows": self.rows}

    def load(self, state: Mapping[str, int | None]) -> None:
        """Take up what `state` gave."""
        self.skipped, self.rows = state.get("skipped") or 0, state.get("rows")

    def step(self, number: int, parts: list[Batch]) -> Outcome:
        """Step `number`, the first being 0, over a batch of which this process has `parts`.

        A step whose loss or gradient is no number leaves the weights and the optimizer as they
        were. Raises NotANumber for one more of them than may be skipped, TrainingError where not
        even single rows fit into memory.
        """
        set_rates(self.optimizer, rate(number, self.config.train.steps, self.config.rate))
        rows_before = self.rows
        pieces, loss_B = self._gradient(number, parts)
        norm = self.accelerator.clip_grad_norm_(
            self._model.parameters(), self.config.optimizer.max_grad_norm
        )
        assert norm is not None
        outcome = Outcome(
            loss=self.accelerator.reduce(loss_B.mean(), "mean").item(),
            grad_norm=float(norm),
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )
        if self.rows != rows_before:
            outcome.remarks = (
                f"out of memory: from step {number + 1} on each process computes "
                f"{several(self.rows or 0, 'row')} at a time, in {several(len(pieces), 'part')} "
                f"instead of {len(parts)}; the result is the same",
            )
        if self._sound(outcome):
            self._update()
            outcome.updated = not self._accelerated.step_was_skipped
        else:
            self._skip(number, outcome, loss_B, pieces)
        self._accelerated.zero_grad()
        return outcome

    # The gradient of a batch, in pieces that fit into memory.

    def _gradient(self, number: int, parts: list[Batch]) -> tuple[list[Batch], Tensor]:
        """The pieces in which it was computed, and the loss of each row of this process, (B,).

        Every process goes through the same attempts. Once the exchange of gradients has begun
        none can fall back any more, so that several first rehearse what is new without it.
        """
        exchanged = self.accelerator.num_processes > 1
        while True:
            pieces = [piece for part in parts for piece in cut(part, self.rows)]
            kind = kind_of(pieces)
            if exchanged and self._can_fall_back and kind not in self._fitting:
                alone = self._attempt(number, pieces, exchange=False)
                self._accelerated.zero_grad()
                if self._any(alone is None):
                    self._halve(pieces)
                    continue
            loss_B = self._attempt(number, pieces)
            if loss_B is not None:
                if self.optimizer.state:  # it, too, takes its memory, and not before a first step
                    self._fitting.add(kind)
                return pieces, loss_B
            if exchanged:
                raise TrainingError(
                    f"Out of memory in step {number + 1} with {several(largest(pieces), 'row')} "
                    "at a time, while the processes exchanged theirs; the newest checkpoint is "
                    "sound. Raise train.accumulation, and the run goes on from there. "
                    f"{SAVE_MEMORY}"
                )
            self._halve(pieces)

    def _attempt(
        self, number: int, pieces: Sequence[Batch], *, exchange: bool = True
    ) -> Tensor | None:
        """The losses, or None, and no gradient, where memory did not suffice."""
        try:
            return self._accumulate(number, pieces, exchange=exchange)
        except (RuntimeError, MemoryError) as error:
            if self.accelerator.num_processes > 1 and is_lost_peer(error):
                raise TrainingError(
                    f"Another process of this run ended in step {number + 1}; what it said tells "
                    "why. The newest checkpoint is sound."
                ) from error
            if not is_out_of_memory(error):
                raise
        # Only here is the traceback gone, which held on to all that the step had made.
        self._accelerated.zero_grad()
        clear_device_cache(garbage_collection=True)
        return None

    def _accumulate(self, number: int, pieces: Sequence[Batch], *, exchange: bool = True) -> Tensor:
        """The gradient of the mean loss; the loss of each row of this process, (B,).

        exchange : among the processes, with the last piece
        """
        losses: list[Tensor] = []
        rows = sum(len(piece.slots) for piece in pieces)
        for place, batch in enumerate(pieces):
            # Dropout inside a model draws from the global generator.
            torch.manual_seed(derive_seed(self.config.seed, number, batch.slots[0], "model"))
            last = exchange and place == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self._model):
                loss_B = self._model(batch.to(self.accelerator.device))
                self.accelerator.backward(loss_B.mean() / (rows / len(batch.slots)))
            losses.append(loss_B.detach())
        return torch.cat(losses)

    def _halve(self, pieces: Sequence[Batch]) -> None:
        rows = largest(pieces)
        if rows == 1:
            raise TrainingError(f"Out of memory with a single row at a time. {SAVE_MEMORY}")
        if not self.target.rows_apart:
            raise TrainingError(
                f"Out of memory with {several(rows, 'row')} at a time, and the loss of a row "
                f"depends on the others: choose a smaller train.batch_size. {SAVE_MEMORY}"
            )
        if not self._can_fall_back:
            raise TrainingError(
                f"Out of memory with {several(rows, 'row')} at a time; with the weights split no "
                f"process can try again alone. Raise train.accumulation. {SAVE_MEMORY}"
            )
        self.rows = (rows + 1) // 2

    @property
    def _can_fall_back(self) -> bool:
        """Split weights are exchanged in the forward pass already."""
        return not is_split(self._model)

    def _any(self, mine: bool) -> bool:
        flag = torch.tensor(float(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _update(self) -> None:
        try:
            self._accelerated.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Out of memory in the optimizer's own step; the newest checkpoint is sound. "
                f"{SAVE_MEMORY}"
            ) from error

    # Steps that must not count.

    def _sound(self, outcome: Outcome) -> bool:
        """Whether the numbers are finite; in fp16 gradients may overflow while the scale falls."""
        scaler = self.accelerator.scaler
        if scaler is None:
            return math.isfinite(outcome.loss) and math.isfinite(outcome.grad_norm)
        return math.isfinite(outcome.loss) and scaler.get_scale() >= SMALLEST_SCALE

    def _skip(self, number: int, outcome: Outcome, loss_B: Tensor, pieces: Sequence[Batch]) -> None:
        """Leave the step out, or stop where there have been too many; all processes alike."""
        bad, told = self._evidence(number, outcome, loss_B, pieces)
        allowed = self.config.train.bad_steps
        if self.skipped >= allowed:
            before = f"{self.skipped} were skipped before. " if self.skipped else ""
            raise NotANumber(
                f"{bad.measured()}: the weights were left as after step {number}. "
                f"{bad.samples()} {told} {before}Look at these "
                "samples; the same command would come to the same place, so go on with a higher "
                f"train.bad_steps (now {allowed}), which skips such steps, or begin anew with "
                "--out and a lower optimizer.learning_rate or another seed."
            )
        self.skipped += 1
        outcome.updated = False
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        skipped = f"skipped, {self.skipped} of at most {allowed} such steps"
        outcome.remarks += (f"{bad.measured()}: {skipped}. {bad.samples()} {told}",)

    def _evidence(
        self, number: int, outcome: Outcome, loss_B: Tensor, pieces: Sequence[Batch]
    ) -> tuple[BadStep, str]:
        """What is known of the step, laid down in the folder of the run; and where, in words."""
        scaler = self.accelerator.scaler
        norms: dict[str, float] = {}
        broken: list[str] = []
        if not is_split(self._model):
            # Clipping made every gradient the same no-number: once more, without.
            self._accelerated.zero_grad()
            self._accumulate(number, pieces)
            norms = gradient_norms(self.optimizer, scaler.get_scale() if scaler else 1.0)
            broken = broken_gradients(self.target)
        rows = rows_of_all(self.accelerator, self.target, pieces, loss_B)
        told = (outcome.loss, outcome.grad_norm, outcome.learning_rate)
        bad = BadStep(number + 1, *told, norms, broken, rows)
        try:
            on_main(self.accelerator, lambda: bad.write(self.out, self._show))
        except (OutputError, DataError) as error:
            return bad, f"More could not be written down: {error}"
        return bad, f"More is in {self.out / FOLDER}."


def largest(pieces: Sequence[Batch]) -> int:
    return max(len(piece.slots) for piece in pieces)


def kind_of(pieces: Sequence[Batch]) -> tuple[int, ...]:
    """What the memory for a batch depends on; the same on every process at a step."""
    first = pieces[0]
    shape = first.pixels_BCHW if first.moments_BCHW is None else first.moments_BCHW
    return (largest(pieces), *shape.shape[1:])
