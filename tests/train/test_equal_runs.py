"""One process, two of them, or parts one after another: the same data, noise and weights."""

import json
import os
from pathlib import Path

import pytest
import torch

from tests.sweeps import sweep
from tests.train.apart import by_two, said
from tests.train.runs import train_only, write_run
from tests.train.states import largest_difference, newest
from tests.train.tuning import METHODS, OF_TWO_ENCODERS, tuning, write_tuning
from train.batches.micro_batch import MicroBatch
from train.checkpoint import read_checkpoint, recover_and_list_checkpoint_folders
from train.config.load_config import load_run_config
from train.targets.denoising import BaseDenoisingTarget

pytestmark = pytest.mark.timeout(400)  # the first process of its own imports everything

QUICK = ("words", "dreambooth")  # of these "dreambooth" trains a LoRA
NEAR = 1e-5
"""Of weights, which a learning rate of 2e-3 moves by far more in six steps."""


def moved(out: Path) -> float:
    """By how much the last two checkpoints of a run differ."""
    last, before = recover_and_list_checkpoint_folders(out / "checkpoints")[:2]
    return largest_difference(read_checkpoint(last), read_checkpoint(before))


@pytest.mark.slow
@pytest.mark.parametrize("method", sweep(METHODS, quick=QUICK))
def test_accumulation_changes_nothing_of_a_fine_tune_but_rounding(
    method: str, base: Path, tmp_path: Path
) -> None:
    steps = ("train.steps=3",)
    one = train_only(tuning(tmp_path, base, method, *steps), tmp_path / "one")
    config = tuning(tmp_path, base, method, *steps, "train.accumulation=2")
    assert largest_difference(one, train_only(config, tmp_path / "parts")) < NEAR
    assert moved(tmp_path / "one") > 10 * NEAR


SPLIT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What `accelerate launch` tells the processes of configs/accelerate/fsdp2.yaml."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param("one encoder", marks=pytest.mark.long), "two encoders"]
)
def test_two_processes_train_words_and_adapters_of_all_models_as_one_does(
    kind: str, base: Path, base_xl: Path, tmp_path: Path
) -> None:
    # Every weight that is trained must get a gradient at each step: the processes wait for it.
    if kind == "one encoder":
        toml = write_tuning(tmp_path, base, "pivotal")
    else:
        toml = write_tuning(tmp_path, base_xl, "mixed", OF_TWO_ENCODERS)
    steps = "train.steps=3"
    assert by_two(toml, tmp_path / "two", steps) == [0, 0], said(tmp_path / "two")
    one, two = (
        train_only(load_run_config(toml, [steps]), tmp_path / "one"),
        newest(tmp_path / "two"),
    )
    assert two.facts["processes"] == 2
    for name in ("weights", "average"):
        assert largest_difference(one, two, name) < NEAR
    assert moved(tmp_path / "one") > 10 * NEAR


@pytest.mark.slow
def test_two_processes_halve_their_parts_together_where_one_runs_out_of_memory(
    tmp_path: Path, plain: Path
) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    assert by_two(toml, out, prepare=short_of_memory_early) == [0, 0], said(out)
    assert said(out).count("computes 1 row at a time, in 2 parts") == 1
    assert newest(out).facts["stepper"]["rows"] == 1
    assert largest_difference(newest(plain), newest(out)) < NEAR


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        pytest.param({}, id="whole"),
        # Split weights end so at any step: see the next test.
        pytest.param(SPLIT, id="split", marks=pytest.mark.long),
    ],
)
def test_two_processes_end_together_where_it_is_too_late_for_that(
    tmp_path: Path, way: dict[str, str]
) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    every = "train.checkpoint_every=3"
    ends = by_two(toml, out, every, prepare=short_of_memory_late, environment=way)
    assert ends == [6, 6], said(out)
    assert "TrainingError: Out of memory in step 4 with 2 rows at a time" in said(out)
    assert "TrainingError: Another process of this run ended after step 3" in said(out)
    assert newest(out).step == 3


def short_of_memory_early() -> None:
    run_out_of_memory(at_step=1)


def short_of_memory_late() -> None:
    run_out_of_memory(at_step=3)


def run_out_of_memory(at_step: int) -> None:
    """Let the second process have no memory for two rows at a step, 0 being the first."""
    torch.set_num_threads(1)
    forward = BaseDenoisingTarget.forward

    def limited(target: BaseDenoisingTarget, batch: MicroBatch) -> torch.Tensor:
        loss_B = forward(target, batch)
        if os.environ["RANK"] == "1" and len(batch.slots) > 1 and batch.step == at_step:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss_B

    BaseDenoisingTarget.forward = limited  # type: ignore[method-assign]


@pytest.mark.long
def test_split_weights_cannot_be_tried_with_fewer_rows_by_one_process(tmp_path: Path) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    assert by_two(toml, out, prepare=short_of_memory_early, environment=SPLIT) == [6, 6], said(out)
    assert "TrainingError: Out of memory in step 2 with 2 rows at a time" in said(out)
    assert "TrainingError: Another process of this run ended after step 1" in said(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [pytest.param({}, id="whole"), pytest.param(SPLIT, id="split", marks=pytest.mark.long)],
)
def test_two_processes_skip_a_bad_step_together(tmp_path: Path, way: dict[str, str]) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    settings = ("train.bad_steps=1", "train.steps=3")
    ends = by_two(toml, out, *settings, prepare=bad_third_step, environment=way)
    assert ends == [0, 0], said(out)
    assert said(out).count("skipped, 1 of at most 1 such steps") == 1
    assert newest(out).facts["stepper"]["skipped"] == 1
    found = json.loads((out / "not-a-number" / "step-00000003.json").read_text())
    assert [row["loss"] == "nan" for row in found["rows"]] == [False, False, True, True]
    # Of split weights no process has a whole gradient to look into.
    assert found["gradient_norms"] == ({} if way else {"all": "nan"})


@pytest.mark.long
def test_two_processes_stop_together_at_a_bad_step_and_keep_the_one_before(tmp_path: Path) -> None:
    toml, out = write_run(tmp_path), tmp_path / "two"
    every = "train.checkpoint_every=100"
    assert by_two(toml, out, every, prepare=bad_third_step) == [6, 6], said(out)
    assert newest(out).step == 2


def bad_third_step() -> None:
    """Let the losses of the second process be no numbers at the third step."""
    torch.set_num_threads(1)
    forward = BaseDenoisingTarget.forward

    def poisoned(target: BaseDenoisingTarget, batch: MicroBatch) -> torch.Tensor:
        bad = os.environ["RANK"] == "1" and batch.step == 2
        return forward(target, batch) * (float("nan") if bad else 1.0)

    BaseDenoisingTarget.forward = poisoned  # type: ignore[method-assign]
