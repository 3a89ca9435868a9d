"""A batch that does not fit into memory is computed in smaller pieces; the run is the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import TrainingError
from tests.train.runs import tiny_run, train_only
from tests.train.states import assert_same_end, largest_difference, logged, newest
from tests.train.tuning import tuning
from train.batches.batch_order import ProcessShare
from train.batches.micro_batch import MicroBatch, iterate_micro_batches_of_steps
from train.batches.micro_batch_splitting import split_micro_batch
from train.data.registry import build_dataset
from train.loop import build_batch_order, run_training
from train.step import TrainingStepper
from train.targets.denoiser import ScratchDenoiserTarget
from train.targets.denoising import BaseDenoisingTarget

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")


class Memory:
    """Room for so many rows from a step on; and what was asked of it."""

    def __init__(self, rows: int, error: Exception = CUDA, *, backward: bool = False) -> None:
        self.rows, self.error, self.backward = rows, error, backward
        self.from_step = 0
        self.asked: list[tuple[int, int]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forward = BaseDenoisingTarget.forward
        check = self.check

        def limited(target: BaseDenoisingTarget, batch: MicroBatch) -> Tensor:
            if not self.backward:
                check(batch)
            loss_B = forward(target, batch)
            if self.backward:
                loss_B.register_hook(lambda _grad: check(batch))
            return loss_B

        monkeypatch.setattr(BaseDenoisingTarget, "forward", limited)

    def check(self, batch: MicroBatch) -> None:
        self.asked.append((batch.step, len(batch.slots)))
        if len(batch.slots) > self.rows and batch.step >= self.from_step:
            raise self.error


def test_the_pieces_of_a_batch_are_its_rows_in_their_order(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "train.batch_size=6")
    samples = build_dataset(config.data)
    batch = next(
        iterate_micro_batches_of_steps(
            samples,
            build_batch_order(samples, config.train.batch_size, config.seed),
            ProcessShare(),
            range(1),
        )
    )
    pieces = split_micro_batch(batch, 2)
    assert [piece.slots for piece in pieces] == [[0, 1], [2], [3, 4], [5]]
    assert [name for piece in pieces for name in piece.names] == batch.names
    assert torch.equal(torch.cat([piece.pixels_BCHW for piece in pieces]), batch.pixels_BCHW)
    assert [piece.step for piece in pieces] == [batch.step] * 4
    assert split_micro_batch(batch, 6) == [batch]


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()], ids=["cuda", "cpu", "python"])
def test_what_allocators_say_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory")]
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_halved_parts_come_to_the_same_and_it_is_said_once(
    backward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], plain: Path,
) -> None:  # fmt: skip
    memory = Memory(rows=1, backward=backward)
    memory.from_step = 1
    memory.install(monkeypatch)
    tight = train_only(tiny_run(tmp_path), tmp_path / "tight")

    assert largest_difference(newest(plain), tight) < 1e-5
    assert capfd.readouterr().err.count("out of memory") == 1
    told = [line["remark"] for line in logged(tmp_path / "tight") if "remark" in line]
    assert len(told) == 1
    assert "from step 2 on each process computes 1 row at a time, in 4 parts" in told[0]
    # The step that failed is done again from its start, and later ones do not try more rows.
    assert memory.asked[:2] == [(0, 4), (1, 4)]
    assert memory.asked[-12:] == [(step, 1) for step in (1, 2, 3) for _ in range(4)]


def test_a_resumed_run_keeps_to_the_smaller_parts_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(rows=2, error=CPU)
    memory.install(monkeypatch)
    config = tiny_run(tmp_path, "train.checkpoint_every=2")
    run_training(config, tmp_path / "whole")

    step = TrainingStepper.step
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStepper, "step", failing_at(3, step))
        with pytest.raises(InterruptedError):
            run_training(config, tmp_path / "parts")
    memory.rows = 4  # another machine, with room for all
    assert run_training(config, tmp_path / "parts")
    assert newest(tmp_path / "parts").facts["stepper"]["rows"] == 2
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def failing_at(number: int, step: Callable[..., object]) -> Callable[..., object]:
    def failing(self: TrainingStepper, done: int, parts: list[MicroBatch]) -> object:
        if done == number:
            raise InterruptedError
        return step(self, done, parts)

    return failing


def test_fine_tunes_with_prior_pictures_come_to_the_same_too(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuning(tmp_path, base, "dreambooth", "train.steps=3")
    roomy = train_only(config, tmp_path / "roomy")
    Memory(rows=3).install(monkeypatch)
    assert largest_difference(roomy, train_only(config, tmp_path / "tight")) < 1e-5


def test_where_a_single_row_does_not_fit_the_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(rows=0).install(monkeypatch)
    with pytest.raises(TrainingError, match=r"single row.*gradient_checkpointing.*bf16.*adamw8bit"):
        run_training(tiny_run(tmp_path), tmp_path / "out")


def test_an_optimizer_that_does_not_fit_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CUDA

    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    with pytest.raises(TrainingError, match=r"optimizer's own step.*adafactor"):
        run_training(tiny_run(tmp_path), tmp_path / "out")


def test_losses_that_depend_on_the_other_rows_are_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(rows=2).install(monkeypatch)
    monkeypatch.setattr(ScratchDenoiserTarget, "rows_apart", False)
    with pytest.raises(TrainingError, match=r"depends on the others.*train.batch_size"):
        run_training(tiny_run(tmp_path), tmp_path / "out")


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(rows=2, error=RuntimeError("a kernel failed")).install(monkeypatch)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        run_training(tiny_run(tmp_path), tmp_path / "out")
