"""One process, two of them, or parts one after another: the same data, noise and weights."""

import random
from pathlib import Path

import pytest
import torch

from tests.train.apart import ended, ready, said, start, start_together
from tests.train.runs import write_run
from tests.train.states import largest_difference, newest
from tests.train.tuning import METHODS, OF_TWO_ENCODERS, tuning, write_tuning
from train.loop import run

NEAR = 1e-5
"""Of weights, which a learning rate of 2e-3 moves by far more in six steps."""


def moved(out: Path) -> float:
    """By how much the last two checkpoints of a run differ."""
    from train.checkpoint import checkpoints, load

    last, before = checkpoints(out / "checkpoints")[:2]
    return largest_difference(load(last), load(before))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_accumulation_changes_nothing_of_a_fine_tune_but_rounding(
    method: str, base: Path, tmp_path: Path
) -> None:
    steps = ("train.steps=4",)
    run(tuning(tmp_path, base, method, *steps), tmp_path / "one")
    run(tuning(tmp_path, base, method, *steps, "train.accumulation=2"), tmp_path / "parts")
    assert largest_difference(newest(tmp_path / "one"), newest(tmp_path / "parts")) < NEAR
    assert moved(tmp_path / "one") > 10 * NEAR


def trained_by_two(toml: Path, out: Path, *overrides: str) -> None:
    ready()
    port = random.Random().randrange(20000, 60000)
    processes = start_together(toml, out, *overrides, port=port)
    assert [ended(process, 100) for process in processes] == [0, 0], said(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one encoder", "two encoders"])
def test_two_processes_train_words_and_adapters_of_all_models_as_one_does(
    kind: str, base: Path, base_xl: Path, tmp_path: Path
) -> None:
    # Every weight that is trained must get a gradient at each step: the processes wait for it.
    if kind == "one encoder":
        toml = write_tuning(tmp_path, base, "pivotal")
    else:
        toml = write_tuning(tmp_path, base_xl, "mixed", OF_TWO_ENCODERS)
    steps = "train.steps=5"
    trained_by_two(toml, tmp_path / "two", steps)
    assert ended(start(toml, tmp_path / "one", steps)) == 0, said(tmp_path / "one")
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert two.facts["processes"] == 2
    for name in ("weights", "average"):
        assert largest_difference(one, two, name) < NEAR
    assert moved(tmp_path / "one") > 10 * NEAR


@pytest.mark.slow
def test_two_processes_halve_their_parts_together_where_one_runs_out_of_memory(
    base: Path, tmp_path: Path
) -> None:
    toml = write_tuning(tmp_path, base, "dreambooth")
    ready()
    port = random.Random().randrange(20000, 60000)
    out = tmp_path / "two"
    processes = start_together(toml, out, "train.steps=5", port=port, prepare=small_second)
    assert [ended(process, 100) for process in processes] == [0, 0], said(out)
    assert said(out).count("computes 1 rows at a time") == 1
    assert newest(out).facts["stepper"]["rows"] == 1
    assert ended(start(toml, tmp_path / "one", "train.steps=5")) == 0, said(tmp_path / "one")
    assert largest_difference(newest(tmp_path / "one"), newest(out)) < NEAR


def small_second() -> None:
    """Let the second process, from its third step on, run out of memory with two rows."""
    import os

    from train.batch import Batch
    from train.targets.denoising import Denoising

    torch.set_num_threads(1)
    forward = Denoising.forward

    def limited(target: Denoising, batch: Batch) -> torch.Tensor:
        loss_B = forward(target, batch)
        if os.environ["RANK"] == "1" and len(batch.slots) > 1 and batch.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss_B

    Denoising.forward = limited  # type: ignore[method-assign]


@pytest.mark.slow
def test_two_processes_skip_a_bad_step_together(tmp_path: Path) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    ready()
    port = random.Random().randrange(20000, 60000)
    processes = start_together(toml, out, "train.bad_steps=1", port=port, prepare=bad_second)
    assert [ended(process, 100) for process in processes] == [0, 0], said(out)
    assert said(out).count("Skipped, 1 of at most 1 such steps") == 1
    stepper = newest(out).facts["stepper"]
    assert stepper["skipped"] == 1


def bad_second() -> None:
    """Let a loss of the second process be no number at the third step."""
    import os

    from train.batch import Batch
    from train.targets.denoising import Denoising

    torch.set_num_threads(1)
    forward = Denoising.forward

    def poisoned(target: Denoising, batch: Batch) -> torch.Tensor:
        loss_B = forward(target, batch)
        bad = os.environ["RANK"] == "1" and batch.step == 2
        return loss_B * float("nan") if bad else loss_B

    Denoising.forward = poisoned  # type: ignore[method-assign]
