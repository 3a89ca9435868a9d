"""A checkpoint is whole or skipped, whatever happened while it was written."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from t2i.errors import OutputError, TrainingError
from train import checkpoint
from train.checkpoint import TrainingState, read_newest_checkpoint, save_and_prune_checkpoints


def state(step: int) -> TrainingState:
    torch.manual_seed(step)
    return TrainingState(
        step, {"weights": {"w": torch.randn(4, 4)}, "average": {}}, {"config": {"a": 1}}
    )


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    save_and_prune_checkpoints(tmp_path, state(7), keep=2)
    loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 7
    assert loaded.facts == {"config": {"a": 1}}
    assert torch.equal(loaded.tensors["weights"]["w"], state(7).tensors["weights"]["w"])


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_newest_checkpoint(tmp_path / "absent") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_and_prune_checkpoints(tmp_path, state(step), keep=2)
    assert [path.name for path in checkpoint.recover_and_list_checkpoint_folders(tmp_path)] == [
        "step-00000010",
        "step-00000003",
    ]


def test_damaged_later_checkpoints_never_push_out_the_sound_one(tmp_path: Path) -> None:
    for step in (5, 6, 7):
        save_and_prune_checkpoints(tmp_path, state(step), keep=9)
    for step in (6, 7):
        (tmp_path / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"")
    save_and_prune_checkpoints(tmp_path, state(5), keep=1)
    loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 5


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "missing file", "no manifest", "garbled manifest"]
)
def test_a_damaged_newest_checkpoint_is_skipped_by_name(tmp_path: Path, damage: str) -> None:
    save_and_prune_checkpoints(tmp_path, state(1), keep=5)
    newest = save_and_prune_checkpoints(tmp_path, state(2), keep=5)
    weights, manifest = newest / "weights.safetensors", newest / "manifest.json"
    content = weights.read_bytes()
    match damage:
        case "truncated":
            weights.write_bytes(content[:-8])
        case "flipped":
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "missing file":
            weights.unlink()
        case "no manifest":
            manifest.unlink()
        case "garbled manifest":
            manifest.write_text("{")
    with pytest.warns(UserWarning, match="step-00000002 is skipped"):
        loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 1


def test_a_half_written_folder_is_not_a_checkpoint_and_the_next_save_replaces_it(
    tmp_path: Path,
) -> None:
    save_and_prune_checkpoints(tmp_path, state(1), keep=5)
    half = tmp_path / ".step-00000002.77-0.part"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    save_and_prune_checkpoints(tmp_path, state(2), keep=5)
    assert not half.exists()


def test_no_complete_checkpoint_at_all_is_an_error(tmp_path: Path) -> None:
    path = save_and_prune_checkpoints(tmp_path, state(1), keep=5)
    (path / "facts.json").write_text("{}")
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(TrainingError, match="None of the 1 checkpoint"),
    ):
        read_newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_and_prune_checkpoints(tmp_path, state(1), keep=1)

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(OutputError, match=r"Cannot write .*step-00000002"):
        save_and_prune_checkpoints(tmp_path, state(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.find_checkpoint_defect(tmp_path / "step-00000001") is None


def test_an_optimizer_goes_on_with_the_same_steps(tmp_path: Path) -> None:
    def stepped(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> torch.Tensor:
        weight.grad = torch.cos(weight.detach() * 3)
        optimizer.step()
        return weight.detach().clone()

    first = torch.nn.Parameter(torch.linspace(-1, 1, 6))
    optimizer = torch.optim.AdamW([first], lr=0.1)
    stepped(optimizer, first)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = torch.optim.AdamW([second], lr=0.1)
    tensors, numbers = checkpoint.pack_optimizer_state(optimizer)
    tensors = {name: value.clone() for name, value in tensors.items()}
    checkpoint.restore_optimizer_state(resumed, tensors, json.loads(json.dumps(numbers)))
    assert torch.equal(stepped(optimizer, first), stepped(resumed, second))
