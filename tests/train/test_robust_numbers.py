"""Losses that are no numbers: a run stops and tells all, or skips so many of them and no more."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from t2i.errors import OutputError, TrainingError
from tests.train.runs import tiny_run
from tests.train.states import assert_same_end, largest_difference, logged, newest
from tests.train.tuning import tuning
from train import nonfinite_step_report
from train.batches.micro_batch import MicroBatch
from train.checkpoint import read_checkpoint
from train.loop import run_training
from train.publish import read_losses
from train.targets.denoising import BaseDenoisingTarget


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int, slot: int = 1) -> None:
    """Make the loss of one row no number at these steps, 0 being the first."""
    forward = BaseDenoisingTarget.forward

    def poisoned(self: BaseDenoisingTarget, batch: MicroBatch) -> Tensor:
        loss_B = forward(self, batch)
        here = [batch.step in steps and one == slot for one in batch.slots]
        return loss_B * torch.tensor([float("nan") if bad else 1.0 for bad in here])

    monkeypatch.setattr(BaseDenoisingTarget, "forward", poisoned)


def evidence(out: Path, step: int) -> dict[str, object]:
    told: dict[str, object] = json.loads((out / f"not-a-number/step-{step:08d}.json").read_text())
    return told


def test_a_stop_leaves_a_checkpoint_of_the_step_before_and_all_that_is_known(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 3)
    config = tuning(tmp_path, base, "pivotal", "train.accumulation=2")
    with pytest.raises(TrainingError, match=r"Step 4 gave loss nan.*\(loss nan\).*bad_steps"):
        run_training(config, tmp_path / "out")
    assert newest(tmp_path / "out").step == 3  # between two that were due

    told = evidence(tmp_path / "out", 4)
    rows = told["rows"]
    assert isinstance(rows, list)
    assert [row["slot"] for row in rows] == [0, 1, 2, 3]
    assert [row["loss"] == "nan" for row in rows] == [False, True, False, False]
    assert all(row["name"].endswith(".png") and row["caption"] for row in rows)
    assert all(0 <= row["drawn"]["timestep"] < 1000 for row in rows)
    assert told["gradient_norms"] == {"part0": "nan", "part1": "nan", "part2": "nan"}
    assert "text_encoder" in str(told["broken_gradients"])
    with Image.open(tmp_path / "out/not-a-number/step-00000004.png") as picture:
        assert 32 <= picture.width < 2 * 64  # of the one sample alone


def test_a_run_that_stopped_goes_on_where_it_may_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)
    with pytest.raises(TrainingError, match=r"go on with a higher train.bad_steps"):
        run_training(tiny_run(tmp_path), tmp_path / "out")
    assert run_training(tiny_run(tmp_path, "train.bad_steps=1"), tmp_path / "out")
    assert run_training(tiny_run(tmp_path, "train.bad_steps=1"), tmp_path / "at once")
    assert_same_end(tmp_path / "out", tmp_path / "at once")


def test_a_skipped_step_leaves_weights_optimizer_and_average_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 2)
    every = ("train.checkpoint_every=1", "train.keep=9", "train.bad_steps=1")
    assert run_training(tiny_run(tmp_path, *every), tmp_path / "out")

    before, after, next_one = (
        read_checkpoint(tmp_path / f"out/checkpoints/step-{step:08d}") for step in (2, 3, 4)
    )
    assert all(largest_difference(before, after, kind) == 0 for kind in before.tensors)
    assert before.facts["optimizer"] == after.facts["optimizer"]
    assert largest_difference(after, next_one) > 0
    assert after.facts["stepper"]["skipped"] == 1

    measured = "Step 3 gave loss nan and gradient norm nan"
    remark = f"{measured}: skipped, 1 of at most 1 such steps. Samples: scenes/"
    assert remark in capfd.readouterr().err
    told = [line["remark"] for line in logged(tmp_path / "out") if "remark" in line]
    assert len(told) == 1
    assert remark in told[0]
    assert [step for step, _ in read_losses(tmp_path / "out/log.jsonl")] == [1, 2, 4]
    assert [line["updated"] for line in logged(tmp_path / "out") if "updated" in line] == [
        True, True, False, True,
    ]  # fmt: skip


def test_one_bad_step_too_many_stops_and_the_count_outlives_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 0, 1, 3)
    every = ("train.checkpoint_every=1", "train.bad_steps=2")
    assert run_training(
        tiny_run(tmp_path, *every, "train.steps=3", "rate.decay=none"), tmp_path / "out"
    )
    with pytest.raises(TrainingError, match=r"Step 4 gave .* 2 were skipped before.*now 2\)"):
        run_training(
            tiny_run(tmp_path, *every, "train.steps=6", "rate.decay=none"), tmp_path / "out"
        )


def test_gradients_that_overflow_from_sound_losses_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = BaseDenoisingTarget.forward

    def steep(self: BaseDenoisingTarget, batch: MicroBatch) -> Tensor:
        loss_B = forward(self, batch)
        if batch.step != 1:
            return loss_B
        # The root at zero: its value is sound, its slope is not.
        bias = self.unet.conv_out.bias
        return loss_B + (bias - bias.detach()).abs().sqrt().sum()

    monkeypatch.setattr(BaseDenoisingTarget, "forward", steep)
    with pytest.raises(TrainingError, match=r"gradient norm nan.*\(any of the batch\)"):
        run_training(tiny_run(tmp_path), tmp_path / "out")
    told = evidence(tmp_path / "out", 2)
    assert told["broken_gradients"] == ["unet.conv_out.bias"]


def test_a_disk_that_is_full_does_not_hide_what_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)

    def refuse(*_: object) -> None:
        raise OutputError("Cannot write it. The disk is full.")

    monkeypatch.setattr(nonfinite_step_report, "write_atomically", refuse)
    with pytest.raises(TrainingError, match=r"loss nan.*not be written: .*disk is full"):
        run_training(tiny_run(tmp_path), tmp_path / "out")
