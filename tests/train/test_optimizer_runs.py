"""Whole runs under each optimizer and each average: interrupted or not, they end the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from t2i.errors import ArgumentError
from tests.sweeps import sweep
from tests.train.runs import tiny_run, train_only
from tests.train.states import newest
from train import checkpoint
from train.checkpoint import TrainingState
from train.loop import run_training
from train.optim.ema_snapshots import list_snapshots

# Sheets are drawn on the way, so that what they lend the model is given back to the bit.
DRAWING = ('samples={every=2, prompts=["a red apple"], steps=2}', "train.steps=5")
RUNS = {
    "adamw": ("ema.kind=power", "ema.snapshot_every=2"),
    "adafactor": ("optimizer.name=adafactor", "optimizer.eps=1e-8"),
    "prodigy": ("optimizer.name=prodigy", "optimizer.learning_rate=1.0", "ema.kind=power"),
    "schedulefree": ("optimizer.name=schedulefree", "ema.kind=none", "rate.decay=none"),
}


def end_of(folder: Path, out: Path, *overrides: str) -> TrainingState:
    return train_only(tiny_run(folder, *DRAWING, *overrides), out)


def crash_after(steps: int) -> Callable[..., Path]:
    save = checkpoint.save_and_prune_checkpoints

    def save_and_crash(folder: Path, state: TrainingState, keep: int) -> Path:
        path = save(folder, state, keep)
        if state.step == steps:
            raise RuntimeError("crash")
        return path

    return save_and_crash


# The states of adafactor and prodigy are saved and restored as that of adamw is.
@pytest.mark.parametrize("name", sweep(RUNS, quick=("adamw", "schedulefree")))
def test_an_interrupted_run_ends_bit_for_bit_as_a_whole_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ("train.checkpoint_every=3", "train.channels_last=true", *RUNS[name])
    whole = end_of(tmp_path, tmp_path / "whole", *every)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_and_prune_checkpoints", crash_after(3))
        with pytest.raises(RuntimeError, match="crash"):
            end_of(tmp_path, tmp_path / "parts", *every)
    parts = end_of(tmp_path, tmp_path / "parts", *every)

    assert parts.facts["optimizer"] == whole.facts["optimizer"]
    for kind, tensors in whole.tensors.items():
        assert tensors.keys() == parts.tensors[kind].keys()
        assert all(torch.equal(value, parts.tensors[kind][key]) for key, value in tensors.items())
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / out / "ema").glob("*")}
        for out in ("whole", "parts")
    ]
    assert files[0] == files[1]
    assert (name == "adamw") == (len(list_snapshots(tmp_path / "whole" / "ema")) == 3)


def test_drawing_on_the_way_changes_nothing(tmp_path: Path) -> None:
    drawn = end_of(tmp_path, tmp_path / "drawn", *RUNS["schedulefree"])
    plain = end_of(tmp_path, tmp_path / "plain", *RUNS["schedulefree"], "samples={}")
    for name, value in drawn.tensors["weights"].items():
        assert torch.equal(value, plain.tensors["weights"][name])


def test_schedule_free_exports_its_average_and_not_where_the_gradient_is_taken(
    tmp_path: Path,
) -> None:
    from diffusers import StableDiffusionPipeline

    settings = (*RUNS["schedulefree"], "export.precision=fp32", "optimizer.learning_rate=0.01")
    assert run_training(tiny_run(tmp_path, *settings), tmp_path / "out")
    state = newest(tmp_path / "out")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "model", safety_checker=None)
    weights = state.tensors["weights"]
    y = weights["unet.conv_in.weight"]
    fast = [value for key, value in state.tensors["optimizer"].items() if key.endswith(".z")]
    z = min((value for value in fast if value.shape == y.shape), key=lambda z: (z - y).abs().max())
    x: Tensor = (y - 0.1 * z) / 0.9
    torch.testing.assert_close(pipe.unet.conv_in.weight, x, rtol=0, atol=1e-6)
    assert (x - y).abs().max() > 1e-5


def test_schedule_free_under_a_falling_rate_is_refused_in_the_users_words(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"set rate.decay = 'none'"):
        tiny_run(tmp_path, "optimizer.name=schedulefree", "ema.kind=none")
