"""One optimizer step: micro-batches, backward passes, clipping, and a check before the update."""

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
from t2i.terminal import plural
from train.batches.micro_batch import MicroBatch
from train.batches.micro_batch_splitting import (
    SAVE_MEMORY_HINT,
    split_micro_batch,
)
from train.loop_config import LoopConfig
from train.nonfinite_step_report import (
    REPORT_FOLDER,
    NonFiniteStepLimitError,
    NonFiniteStepReport,
    StepPictureLoader,
    compute_gradient_norms,
    gather_example_reports,
    list_nonfinite_gradients,
)
from train.optim.learning_rate import LearningRateScheduleConfig, compute_learning_rate_factor
from train.optim.optimizer import OptimizerConfig, build_optimizer, set_learning_rates
from train.parallel.fsdp import (
    is_module_sharded,
    prepare_with_accelerate,
    shard_weights_if_requested,
)
from train.parallel.processes import is_true_on_any_process, run_on_main_and_raise_on_all
from train.targets.target import TrainingTarget

MIN_GRADIENT_SCALE = 1.0
"""Scale of fp16 gradients below which a step is bad; a sound run never comes so low."""


@dataclass(frozen=True, slots=True)
class RunConfigForStep:
    """The parts of a training run's configuration (seed, loop, optimizer, learning rate) that
    decide how an optimizer step is made.
    """

    seed: int
    loop: LoopConfig
    optimizer: OptimizerConfig
    rate: LearningRateScheduleConfig


@dataclass(slots=True)
class StepMetrics:
    """Measurements of one optimizer step: loss, gradient norm and remarks."""

    loss: float
    grad_norm: float
    learning_rate: float
    updated: bool = True
    """False where the weights were not changed: gradients overflowed, or the step was skipped."""
    remarks: tuple[str, ...] = ()
    """Messages for the user."""

    def to_log_dict(self) -> dict[str, float]:
        """Return the measurements of an optimizer step by name, for the training log."""
        return {
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "updated": self.updated,
        }


class TrainingStepper:
    """Performer of optimizer steps: forward and backward passes in micro-batches, clipping,
    update; skips steps that are not finite.

    skipped : steps so far that were skipped because their loss or gradient was not finite
    rows : rows that are computed at a time, after more of them did not fit into memory
    """

    def __init__(
        self,
        settings: RunConfigForStep,
        target: TrainingTarget,
        accelerator: Accelerator,
        out: Path,
        load_pictures: StepPictureLoader,
    ) -> None:
        self.settings, self.target = settings, target
        self.accelerator, self.out = accelerator, out
        groups = target.build_parameter_groups()
        sharded = shard_weights_if_requested(target, accelerator)
        self.optimizer = build_optimizer(
            settings.optimizer,
            [replace(group, parameters=[sharded[p] for p in group.parameters]) for group in groups],
        )
        self._model, self._accelerated = prepare_with_accelerate(
            target, self.optimizer, accelerator
        )
        self._load_pictures = load_pictures
        self.skipped = 0
        self.rows: int | None = None
        self._fitting: set[tuple[int, ...]] = set()

    def state_dict(self) -> dict[str, int | None]:
        """Return the stepper's own state for a checkpoint: skipped steps and rows computed at a
        time.
        """
        return {"skipped": self.skipped, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        """Restore the number of skipped steps and of rows computed at a time from `state_dict`."""
        self.skipped, self.rows = state.get("skipped") or 0, state.get("rows")

    def step(self, number: int, micro_batches: list[MicroBatch]) -> StepMetrics:
        """Make optimizer step `number`, the first being 0, over the micro-batches of this process.

        A step whose loss or gradient is not finite leaves weights and optimizer unchanged.
        Raises NonFiniteStepLimitError for one more of them than may be skipped, TrainingError
        where not even single rows fit into memory.
        """
        set_learning_rates(
            self.optimizer,
            compute_learning_rate_factor(number, self.settings.loop.steps, self.settings.rate),
        )
        rows_before = self.rows
        pieces, loss_B = self._gradient(number, micro_batches)
        norm = self.accelerator.clip_grad_norm_(
            self._model.parameters(), self.settings.optimizer.max_grad_norm
        )
        assert norm is not None
        result = StepMetrics(
            loss=self.accelerator.reduce(loss_B.mean(), "mean").item(),
            grad_norm=float(norm),
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )
        if self.rows != rows_before:
            result.remarks = (
                f"out of memory: from step {number + 1} on each process computes "
                f"{plural(self.rows or 0, 'row')} at a time, in {plural(len(pieces), 'part')} "
                f"instead of {len(micro_batches)}; the result is the same",
            )
        if self._is_sound(result):
            self._update()
            result.updated = not self._accelerated.step_was_skipped
        else:
            self._skip(number, result, loss_B, pieces)
        self._accelerated.zero_grad()
        return result

    # computing the gradient of a batch in pieces that fit into memory

    def _gradient(
        self, number: int, micro_batches: list[MicroBatch]
    ) -> tuple[list[MicroBatch], Tensor]:
        """Compute the gradient; return its pieces and the loss of each row of this process, (B,).

        Every process makes the same attempts. Once the exchange of gradients has begun no process
        can fall back, so several processes first try a new shape without exchange.
        """
        exchanged = self.accelerator.num_processes > 1
        while True:
            pieces = [
                piece for batch in micro_batches for piece in split_micro_batch(batch, self.rows)
            ]
            kind = batch_memory_key(pieces)
            if exchanged and self._can_fall_back and kind not in self._fitting:
                alone = self._attempt(number, pieces, exchange=False)
                self._accelerated.zero_grad()
                if is_true_on_any_process(self.accelerator, alone is None):
                    self._halve(pieces)
                    continue
            loss_B = self._attempt(number, pieces)
            if loss_B is not None:
                if self.optimizer.state:  # the optimizer takes memory too, from the first step on
                    self._fitting.add(kind)
                return pieces, loss_B
            if exchanged:
                raise TrainingError(
                    f"Out of memory in step {number + 1} with "
                    f"{plural(count_largest_micro_batch_rows(pieces), 'row')} at a time, "
                    "while the processes exchanged gradients; the newest checkpoint "
                    "is sound. Raise train.accumulation, and the run goes on from there. "
                    f"{SAVE_MEMORY_HINT}"
                )
            self._halve(pieces)

    def _attempt(
        self, number: int, pieces: Sequence[MicroBatch], *, exchange: bool = True
    ) -> Tensor | None:
        """Return the losses; None, without a gradient, where memory did not suffice."""
        try:
            return self._accumulate(number, pieces, exchange=exchange)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here is the traceback gone, which kept everything that the step had computed.
        self._accelerated.zero_grad()
        clear_device_cache(garbage_collection=True)
        return None

    def _accumulate(
        self, number: int, pieces: Sequence[MicroBatch], *, exchange: bool = True
    ) -> Tensor:
        """Compute the gradient of the mean loss; return the loss of each row, (B,).

        exchange : average gradients over the processes, with the last piece
        """
        losses: list[Tensor] = []
        rows = sum(len(piece.slots) for piece in pieces)
        for index, batch in enumerate(pieces):
            # Dropout inside a model draws from the global generator.
            torch.manual_seed(derive_seed(self.settings.seed, number, batch.slots[0], "model"))
            last = exchange and index == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self._model):
                loss_B = self._model(batch.to(self.accelerator.device))
                self.accelerator.backward(loss_B.mean() / (rows / len(batch.slots)))
            losses.append(loss_B.detach())
        return torch.cat(losses)

    def _halve(self, pieces: Sequence[MicroBatch]) -> None:
        rows = count_largest_micro_batch_rows(pieces)
        if rows == 1:
            raise TrainingError(f"Out of memory with a single row at a time. {SAVE_MEMORY_HINT}")
        if not self.target.rows_apart:
            raise TrainingError(
                f"Out of memory with {plural(rows, 'row')} at a time, and the loss of a row "
                f"depends on the others: choose a smaller train.batch_size. {SAVE_MEMORY_HINT}"
            )
        if not self._can_fall_back:
            raise TrainingError(
                f"Out of memory with {plural(rows, 'row')} at a time; with sharded weights no "
                f"process can try again alone. Raise train.accumulation. {SAVE_MEMORY_HINT}"
            )
        self.rows = (rows + 1) // 2

    @property
    def _can_fall_back(self) -> bool:
        """False for sharded weights, which are exchanged in the forward pass already."""
        return not is_module_sharded(self._model)

    def _update(self) -> None:
        try:
            self._accelerated.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Out of memory in the optimizer's own step; the newest checkpoint is sound. "
                f"{SAVE_MEMORY_HINT}"
            ) from error

    # skipping bad steps

    def _is_sound(self, result: StepMetrics) -> bool:
        """Return True for a finite loss and gradient; in fp16 the scaler handles overflows."""
        scaler = self.accelerator.scaler
        if scaler is None:
            return math.isfinite(result.loss) and math.isfinite(result.grad_norm)
        return math.isfinite(result.loss) and scaler.get_scale() >= MIN_GRADIENT_SCALE

    def _skip(
        self, number: int, result: StepMetrics, loss_B: Tensor, pieces: Sequence[MicroBatch]
    ) -> None:
        """Skip a bad step, on all processes. Raises NonFiniteStepLimitError after too many."""
        bad, details = self._report(number, result, loss_B, pieces)
        allowed = self.settings.loop.bad_steps
        if self.skipped >= allowed:
            before = f"{self.skipped} were skipped before. " if self.skipped else ""
            raise NonFiniteStepLimitError(
                f"{bad.format_headline()}: the weights are those after step {number}. "
                f"{bad.describe_suspect_examples()} {details} {before}Look at these "
                "samples; the same command would fail at the same step, so go on with a higher "
                f"train.bad_steps (now {allowed}), which skips such steps, or begin anew with "
                "--out and a lower optimizer.learning_rate or another seed."
            )
        self.skipped += 1
        result.updated = False
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        skipped = f"skipped, {self.skipped} of at most {allowed} such steps"
        result.remarks += (
            f"{bad.format_headline()}: {skipped}. {bad.describe_suspect_examples()} {details}",
        )

    def _report(
        self, number: int, result: StepMetrics, loss_B: Tensor, pieces: Sequence[MicroBatch]
    ) -> tuple[NonFiniteStepReport, str]:
        """Write a report of a bad step; return it with a sentence that says where it is."""
        scaler = self.accelerator.scaler
        norms: dict[str, float] = {}
        broken: list[str] = []
        if not is_module_sharded(self._model):
            # Clipping made every gradient NaN: computed again, without clipping.
            self._accelerated.zero_grad()
            self._accumulate(number, pieces)
            norms = compute_gradient_norms(self.optimizer, scaler.get_scale() if scaler else 1.0)
            broken = list_nonfinite_gradients(self.target)
        rows = gather_example_reports(self.accelerator, self.target, pieces, loss_B)
        measured = (result.loss, result.grad_norm, result.learning_rate)
        bad = NonFiniteStepReport(number + 1, *measured, norms, broken, rows)
        try:
            run_on_main_and_raise_on_all(
                self.accelerator, lambda: bad.write(self.out, self._load_pictures)
            )
        except (OutputError, DataError) as error:
            return bad, f"A report could not be written: {error}"
        return bad, f"More is in {self.out / REPORT_FOLDER}."


def count_largest_micro_batch_rows(pieces: Sequence[MicroBatch]) -> int:
    """Return the number of rows of the largest of a step's micro-batches."""
    return max(len(piece.slots) for piece in pieces)


def batch_memory_key(pieces: Sequence[MicroBatch]) -> tuple[int, ...]:
    """Return a key of how much memory a batch needs: rows and shape of its largest micro-batch."""
    first = pieces[0]
    shape = first.pixels_BCHW if first.moments_BCHW is None else first.moments_BCHW
    return (count_largest_micro_batch_rows(pieces), *shape.shape[1:])
