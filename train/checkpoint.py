"""Checkpoints, written completely or not at all: `step-00001000/` with a manifest of digests.

A folder is filled under a temporary name, flushed to disk, and renamed. Whenever a run is killed,
the newest folder whose manifest is right holds a complete state.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from t2i.atomic_folders import atomic_folder, restore_all_folders_from_backup
from t2i.errors import TrainingError
from t2i.safe_reading import RUN_FILE_KIND, open_regular_file, parse_json, read_bounded
from t2i.safe_reading.tensors import read_tensors
from t2i.terminal import plural
from train.optim.optimizer import BASE_RATE_KEY
from train.parallel.fsdp import shard_like

CHECKPOINT_FOLDER = "checkpoints"
"""Folder of the checkpoints in the folder of a run."""
CHECKPOINT_MANIFEST_NAME = "manifest.json"
CHECKPOINT_NAME_PATTERN = re.compile(r"step-(\d{8,})")

TensorsByName = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """State of a training run from which it can be resumed: step, tensors and JSON data.

    tensors : file name without suffix -> its tensors ("weights", "average", "optimizer")
    facts : JSON data (step, config, ...)
    """

    step: int
    tensors: Mapping[str, TensorsByName]
    facts: Mapping[str, Any]


def save_and_prune_checkpoints(folder: Path, state: TrainingState, keep: int) -> Path:
    """Write a checkpoint of `state` below `folder` and remove all but the `keep` newest
    checkpoints.

    Later ones, which were incomplete when the run resumed, are removed too. Raises OutputError when
    the disk refuses; the old checkpoints stay.
    """
    final = folder / f"step-{state.step:08d}"
    with atomic_folder(final) as part:
        facts = {"step": state.step, **state.facts}
        (part / "facts.json").write_text(json.dumps(facts, indent=1), "utf-8")
        for name, tensors in state.tensors.items():
            save_file(
                {key: value.contiguous() for key, value in tensors.items()},
                part / f"{name}.safetensors",
            )
        digests = {path.name: compute_file_digest(path) for path in part.iterdir()}
        (part / CHECKPOINT_MANIFEST_NAME).write_text(json.dumps(digests, indent=1), "utf-8")
    older = [
        path
        for path in recover_and_list_checkpoint_folders(folder)
        if parse_checkpoint_step(path) <= state.step
    ]
    for path in {*recover_and_list_checkpoint_folders(folder), *folder.glob(".step-*.part")} - {
        *older[:keep]
    }:
        shutil.rmtree(path, ignore_errors=True)
    return final


def recover_and_list_checkpoint_folders(folder: Path) -> list[Path]:
    """Restore interrupted replacements and list the checkpoint folders, newest first.

    Incomplete checkpoints are listed, too.
    """
    restore_all_folders_from_backup(folder)
    found = [path for path in folder.glob("step-*") if CHECKPOINT_NAME_PATTERN.fullmatch(path.name)]
    return sorted(found, key=parse_checkpoint_step, reverse=True)


def parse_checkpoint_step(path: Path) -> int:
    """Parse the step from the name of a checkpoint folder, as 1000 from "step-00001000"."""
    return int(path.name.removeprefix("step-"))


def read_newest_checkpoint(folder: Path) -> TrainingState | None:
    """Read the newest complete checkpoint; None where there is none. Warns of damaged ones.

    Raises TrainingError where there are checkpoints and none is complete.
    """
    found = recover_and_list_checkpoint_folders(folder)
    for path in found:
        fault = find_checkpoint_defect(path)
        if fault is None:
            return read_checkpoint(path)
        warnings.warn(f"Checkpoint {path} is skipped: {fault}.", stacklevel=2)
    if found:
        raise TrainingError(
            f"None of the {plural(len(found), 'checkpoint')} in {folder} is complete. "
            "Restore one from a copy, or move the folder away to start anew."
        )
    return None


def read_newest_checkpoint_json(folder: Path) -> dict[str, Any] | None:
    """Read step, configuration and other JSON data of the newest checkpoint, complete or not;
    None if no checkpoint can be read.

    For checks before the weights are read, which `read_newest_checkpoint` does.
    """
    for path in recover_and_list_checkpoint_folders(folder):
        try:
            facts: dict[str, Any] = parse_json(
                read_bounded(path / "facts.json", RUN_FILE_KIND.max_bytes), lenient=True
            )
        except (OSError, ValueError):
            continue
        return facts
    return None


def find_checkpoint_defect(path: Path) -> str | None:
    """Return the defect of a checkpoint folder as text, or None for a complete one."""
    try:
        digests = parse_json(read_bounded(path / CHECKPOINT_MANIFEST_NAME, RUN_FILE_KIND.max_bytes))
        for name, noted in digests.items():
            if compute_file_digest(path / name) != noted:
                return f"{name} differs from its digest in the manifest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def read_checkpoint(path: Path) -> TrainingState:
    """Read the state of a run from one checkpoint folder; nothing is restored yet.

    Raises TrainingError where it cannot be read.
    """
    try:
        facts = parse_json(read_bounded(path / "facts.json", RUN_FILE_KIND.max_bytes), lenient=True)
        tensors = {file.stem: read_tensors(file) for file in path.glob("*.safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"Cannot read the checkpoint {path}: {error}.") from error
    return TrainingState(facts.pop("step"), tensors, facts)


def pack_optimizer_state(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer as named tensors and numbers, without its configuration.

    "3.exp_avg" belongs to the fourth parameter, "group.0.d" to the first group: Prodigy and
    schedule-free keep state there.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    found = {str(index): state for index, state in optimizer.state_dict()["state"].items()}
    for number, group in enumerate(optimizer.param_groups):
        # Sharded, Prodigy's groups share their tensors; a file holds each once.
        found[f"group.{number}"] = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in _values_changed_by_steps(optimizer, group).items()
        }
    for prefix, values in found.items():
        for path, value in _leaves(values, prefix):
            (tensors if isinstance(value, Tensor) else numbers)[path] = value
    return tensors, numbers


@torch.no_grad()
def restore_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: TensorsByName, numbers: Mapping[str, Any]
) -> None:
    """Restore in an optimizer of the same parameters what `pack_optimizer_state` returned."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        for name in _values_changed_by_steps(optimizer, group).keys() & optimizer.defaults.keys():
            group[name] = optimizer.defaults[name]
    for key, value in {**tensors, **numbers}.items():
        first, *path = key.split(".")
        if first == "group":
            number, name = path
            groups[int(number)][name] = _on_device_of(parameters[0], value)
            continue
        inner = state.setdefault(int(first), {})
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = _in_layout_of(parameters[int(first)], value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


CONFIGURED_GROUP_KEYS = ("params", "param_names", "name", "lr", BASE_RATE_KEY, "weight_decay")
"""Keys of a group that come from the configuration."""


def _values_changed_by_steps(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of a group that differ from those it was built with."""
    return {
        name: value
        for name, value in group.items()
        if name not in CONFIGURED_GROUP_KEYS
        and (isinstance(value, Tensor) or value != optimizer.defaults.get(name))
    }


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield values by dotted names; bitsandbytes has tables in a parameter's state."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _on_device_of(parameter: Tensor, value: Any) -> Any:
    return value.to(parameter.device) if isinstance(value, Tensor) else value


def _in_layout_of(parameter: Tensor, value: Any) -> Any:
    """Give a tensor of the parameter's shape its memory layout, on which rounding may depend."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        empty = torch.empty_like(parameter, dtype=value.dtype)
        return empty.copy_(shard_like(value, empty))
    return value


def compute_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
