"""What a run has come to, and how two of them compare."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from train.checkpoint import TrainingState, read_newest_checkpoint

KINDS = ("weights", "average", "optimizer")


def newest(out: Path) -> TrainingState:
    state = read_newest_checkpoint(out / "checkpoints")
    assert state is not None, f"no checkpoint in {out}"
    return state


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in logged(out) if "loss" in line]


def results(out: Path) -> dict[str, Any]:
    """The finished model, file by file."""
    folder = out / "model"
    return {
        str(path.relative_to(folder)): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def content(path: Path) -> Any:
    """The bytes; safetensors writes its notes in an order of its own, each time another."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}
        return file.metadata(), tensors


def largest_difference(one: TrainingState, other: TrainingState, kind: str = "weights") -> float:
    assert one.tensors[kind].keys() == other.tensors[kind].keys()
    return max(
        (value.double() - other.tensors[kind][name].double()).abs().max().item()
        for name, value in one.tensors[kind].items()
    )


def assert_equal_bit_for_bit(one: TrainingState, other: TrainingState) -> None:
    assert one.step == other.step
    for kind in KINDS:
        assert largest_difference(one, other, kind) == 0, kind


def assert_same_end(one: Path, other: Path) -> None:
    """Bit for bit: weights, averages, optimizer, everything else kept, losses, and the model."""
    first, second = newest(one), newest(other)
    assert first.step == second.step
    for kind in KINDS:
        assert first.tensors[kind].keys() == second.tensors[kind].keys()
        for name, value in first.tensors[kind].items():
            there = second.tensors[kind][name]
            assert torch.equal(value, there), (
                f"{kind} {name} differs by {(value - there).abs().max().item():.3g}"
            )
    assert first.facts["optimizer"] == second.facts["optimizer"]
    assert first.facts["stepper"] == second.facts["stepper"]
    assert losses(one) == losses(other)
    assert results(one) == results(other)
