"""Checkpoints that are whole or not there: `step-00001000/` with a manifest of digests.

A folder is filled under a temporary name, flushed to disk, and renamed. Whatever the moment of a
kill, the newest folder with a true manifest is a complete state.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2i.errors import TrainingError
from t2i.files import whole_folder

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{8,})")

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class State:
    """All that a run needs to go on.

    tensors : file name without suffix -> its tensors ("weights", "average", "optimizer")
    facts : JSON data (step, config, ...)
    """

    step: int
    tensors: Mapping[str, Tensors]
    facts: Mapping[str, Any]


def save_state(folder: Path, state: State, keep: int) -> Path:
    """Write `state` below `folder` and remove all but the `keep` newest up to it.

    Later ones were passed over as incomplete when the run resumed, and go too. Raises OutputError
    when the disk refuses; the checkpoints that were there stay.
    """
    final = folder / f"step-{state.step:08d}"
    with whole_folder(final) as part:
        facts = {"step": state.step, **state.facts}
        (part / "facts.json").write_text(json.dumps(facts, indent=1), "utf-8")
        for name, tensors in state.tensors.items():
            save_file(
                {key: value.contiguous() for key, value in tensors.items()},
                part / f"{name}.safetensors",
            )
        digests = {path.name: digest(path) for path in part.iterdir()}
        (part / MANIFEST).write_text(json.dumps(digests, indent=1), "utf-8")
    older = [path for path in checkpoints(folder) if step_of(path) <= state.step]
    for path in {*checkpoints(folder), *folder.glob(".step-*.part")} - {*older[:keep]}:
        shutil.rmtree(path, ignore_errors=True)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders by name, newest first, complete or not."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load_newest(folder: Path) -> State | None:
    """The newest complete state, or None without any checkpoint; warns of each it passes over.

    Raises TrainingError when there are checkpoints and none is complete.
    """
    found = checkpoints(folder)
    for path in found:
        fault = fault_of(path)
        if fault is None:
            return load(path)
        warnings.warn(f"Checkpoint {path} is passed over: {fault}.", stacklevel=2)
    if found:
        raise TrainingError(
            f"None of the {len(found)} checkpoints in {folder} is complete. "
            "Restore one from a copy, or move the folder away to start anew."
        )
    return None


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        digests = json.loads((path / MANIFEST).read_bytes())
        for name, noted in digests.items():
            if digest(path / name) != noted:
                return f"{name} differs from its digest in the manifest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def load(path: Path) -> State:
    """Read one checkpoint folder. Raises TrainingError for one that cannot be read."""
    try:
        facts = json.loads((path / "facts.json").read_bytes())
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"Cannot read the checkpoint {path}: {error}.") from error
    return State(facts.pop("step"), tensors, facts)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    return tensors, numbers


@torch.no_grad()
def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: Mapping[str, Any]
) -> None:
    """Give an optimizer of the same parameters the state that `pack_optimizer` read."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # In the parameter's own layout: another one may round otherwise.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
