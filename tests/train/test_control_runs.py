"""Runs that train controls: resumed, cached, in parts, by two processes, of other models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import t2i
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from tests.sweeps import sweep
from tests.train.apart import by_two, said
from tests.train.control_runs import (
    KINDS,
    NEAR,
    run_of,
    scenes_of,
    write_run,
)
from tests.train.runs import train_only
from tests.train.states import assert_equal_bit_for_bit, largest_difference, logged, newest, results
from train.batches.micro_batch import MicroBatch
from train.config.load_config import load_run_config
from train.loop import run_training
from train.targets.control_network import ControlTarget
from train.targets.denoising import NoisyLatentsWithTarget


# Both kinds go through the same loop: each test of it trains one, `make test-all` the other too.
@pytest.mark.parametrize("kind", sweep(KINDS, quick=["t2i-adapter"]))
def test_a_stopped_run_goes_on_bit_for_bit(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_of(tmp_path, base, kind)
    whole = train_only(config, tmp_path / "whole")
    compute = ControlTarget.compute_losses

    def crash(self: ControlTarget, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        if batch.step == 4:
            raise RuntimeError("crash")
        return compute(self, batch, noised)

    with monkeypatch.context() as patch:
        patch.setattr(ControlTarget, "compute_losses", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run_training(config, tmp_path / "parts")
    assert newest(tmp_path / "parts").step == 3
    assert_equal_bit_for_bit(train_only(config, tmp_path / "parts"), whole)


def test_a_cache_of_latents_and_hints_changes_nothing(base: Path, tmp_path: Path) -> None:
    # One picture at a time through the autoencoder, as rounding depends on the rows.
    config = run_of(tmp_path, base, "controlnet")
    off = run_of(tmp_path, base, "controlnet", "cache.latents=false", "cache.texts=false")
    cached, plain = (train_only(one, tmp_path / n) for one, n in ((config, "on"), (off, "off")))
    assert (tmp_path / "on/cache").is_dir()
    assert largest_difference(cached, plain) < NEAR


@pytest.mark.parametrize("kind", sweep(KINDS, quick=["t2i-adapter"]))
def test_parts_of_a_batch_come_to_the_whole(kind: str, base: Path, tmp_path: Path) -> None:
    one = train_only(run_of(tmp_path, base, kind, "train.steps=3"), tmp_path / "one")
    config = run_of(tmp_path, base, kind, "train.steps=3", "train.accumulation=2")
    assert largest_difference(one, train_only(config, tmp_path / "parts")) < NEAR


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", sweep(KINDS, quick=["controlnet"]))
def test_two_processes_come_to_what_one_does(kind: str, base: Path, tmp_path: Path) -> None:
    toml, steps = write_run(tmp_path, base, kind), "train.steps=3"
    assert by_two(toml, tmp_path / "two", steps) == [0, 0], said(tmp_path / "two")
    one = train_only(load_run_config(toml, [steps]), tmp_path / "one")
    two = newest(tmp_path / "two")
    assert two.facts["processes"] == 2
    assert largest_difference(one, two) < NEAR


@pytest.mark.parametrize("kind", sweep(KINDS, quick=["t2i-adapter"]))
def test_scenes_train_it_with_their_own_hints(kind: str, base: Path, tmp_path: Path) -> None:
    assert run_training(scenes_of(tmp_path, base, kind), tmp_path / "out")
    assert "config.json" in results(tmp_path / "out")


def test_models_of_two_encoders_and_low_precision_train_it(base_xl: Path, tmp_path: Path) -> None:
    config = scenes_of(tmp_path, base_xl, "controlnet", "train.precision=bf16")
    config = config.model_copy(update={"target": config.target.model_copy(
        update={"gradient_checkpointing": True}
    )})  # fmt: skip
    assert run_training(config, tmp_path / "out")
    assert all(np.isfinite(line["loss"]) for line in logged(tmp_path / "out") if "loss" in line)
    pipe = t2i.load(base_xl)
    control = Control(
        load_control_network(tmp_path / "out/model", pipe.unet), Image.new("RGB", (32, 32))
    )
    assert pipe("red apple", num_inference_steps=1, controls=[control]).images


def test_gradient_checkpointing_changes_nothing(base: Path, tmp_path: Path) -> None:
    one, other = (
        train_only(
            scenes_of(tmp_path, base, "controlnet", f"target.gradient_checkpointing={on}"),
            tmp_path / on,
        )
        for on in ("true", "false")
    )
    assert largest_difference(one, other) < NEAR
