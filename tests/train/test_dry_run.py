"""`--dry-run`: what a run will do, in a table and in numbers, before anything of it is done."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.data.making import folder_of
from tests.train.runs import tiny_run
from train.config.run_config import RunConfig
from train.dry_run.dry_run import print_dry_run
from train.dry_run.memory_forecast import (
    LIBRARY_BYTES_RANGE,
    forecast_activation_bytes_and_drop_weights,
    forecast_parameters_and_memory,
)
from train.setup.assembly import assemble_target


def finetune_of(folder: Path, **more: object) -> RunConfig:
    pictures = folder_of(folder / "mugs", "red", "green", "blue")
    parts = [
        {"method": "words", "words": [{"word": "<mug>"}], "learning_rate": 0.01},
        {"method": "lora", "rank": 4},
    ]
    return RunConfig.model_validate(
        {
            "target": {"kind": "finetune", "base": "embedded", "parts": parts},
            "data": {"kind": "pictures", "folder": pictures, "size": 128},
            "train": {"steps": 30, "batch_size": 2, "device": "cpu", "checkpoint_every": 20},
            "samples": {"every": 20, "prompts": ["a <mug>"]},
            **more,
        }
    )


def test_the_table_says_what_is_trained_on_what_and_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_dry_run(finetune_of(tmp_path), as_json=False)
    told = capsys.readouterr().out
    lines = [line.split(maxsplit=1) for line in told.splitlines()]
    table = dict(line for line in lines if len(line) == 2)
    assert len(lines) <= 12
    assert table["trained"].startswith("new word <mug>: 256 parameters, learning rate 0.01")
    assert "LoRA of rank 4 on unet: 113,664 parameters, learning rate 0.0001" in told
    assert table["data"] == "3 pictures, 20 epochs"
    assert table["batch"] == "2 pictures of 128 pixels"
    assert table["sheets"] == "2, every 20 steps and of the final weights"
    assert table["checkpoints"] == "2, every 20 steps; the newest 2 stay"
    assert "MB" in table["memory"]
    assert not (tmp_path / "runs").exists()


def test_programs_get_the_same_numbers_beside_the_resolved_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(tmp_path, "samples.every=0")
    print_dry_run(config, as_json=True)
    told = json.loads(capsys.readouterr().out)
    expected = told.pop("expected")
    assert RunConfig.model_validate(told) == config
    target, _ = assemble_target(config)
    weights = sum(p.numel() for p in target.collect_trained_parameters_by_name().values())
    (trained,) = expected["trained"]
    assert trained["parameters"] == weights
    memory = expected["memory_bytes"]
    assert memory["gradients"] == memory["averages"] == 4 * weights
    assert memory["moments"] == 8 * weights
    parts = ("weights", "gradients", "moments", "averages", "activations")
    assert (
        memory["from"]
        == LIBRARY_BYTES_RANGE[0] + sum(memory[part] for part in parts)
        < memory["to"]
    )
    assert (expected["sheets"], expected["checkpoints"]) == (0, 1)
    assert expected["data"] == {"examples": 10, "epochs": 1.6, "problem": None}


def test_what_a_step_keeps_grows_with_its_rows_and_falls_with_checkpoints(tmp_path: Path) -> None:
    def kept(*overrides: str) -> int:
        config = tiny_run(tmp_path, *overrides)
        found = forecast_activation_bytes_and_drop_weights(assemble_target(config)[0], config)
        assert found
        return found

    one = kept("train.batch_size=1")
    assert kept("train.batch_size=4") == 4 * one
    assert kept("train.batch_size=4", "train.accumulation=2") == 2 * one
    assert kept("train.batch_size=1", "target.gradient_checkpointing=true") < one


def test_what_a_step_keeps_is_what_torch_keeps(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, "train.batch_size=1", "data.size=32")
    target, _ = assemble_target(config)
    unet, kept = target.unet, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in target.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = unet(torch.zeros(1, 4, 4, 4), 1, torch.zeros(1, 3, 16)).sample
    saved = sum(size for place, size in kept.items() if place not in own)
    assert out.requires_grad
    counted = forecast_activation_bytes_and_drop_weights(target, config)
    assert 0.9 * saved < counted < 2 * saved


def test_what_is_not_here_is_said_and_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finetune_of(tmp_path)
    elsewhere = config.target.model_copy(update={"base": "someone/some-model"})
    away = config.data.model_copy(update={"folder": tmp_path / "nowhere"})
    print_dry_run(config.model_copy(update={"target": elsewhere, "data": away}), as_json=False)
    told = capsys.readouterr().out
    assert "not counted: someone/some-model is not on this machine" in told
    assert "No such folder of pictures" in told
    assert "memory" not in told


def test_the_forecast_leaves_the_random_numbers_of_a_run_alone(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert forecast_parameters_and_memory(config).trained
    assert torch.equal(torch.rand(3), expected)
