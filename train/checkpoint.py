"""Checkpoints that are whole or not there: `step-00001000/` with a manifest of digests.

A folder is filled under a temporary name, flushed to disk, and renamed. Whatever the moment of a
kill, the newest folder with a true manifest is a complete state.
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

from t2i.atomic_folders import atomic_folder, recover_all
from t2i.errors import TrainingError
from t2i.safe_reading import RUN, open_regular, parse_json, read_bounded
from t2i.safe_reading.tensors import read_tensors
from t2i.terminal import several
from train.optim.optimizer import OWN_RATE
from train.parallel.fsdp import split_like

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
    with atomic_folder(final) as part:
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
    recover_all(folder)
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
            f"None of the {several(len(found), 'checkpoint')} in {folder} is complete. "
            "Restore one from a copy, or move the folder away to start anew."
        )
    return None


def newest_facts(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint says of its run, complete or not; None where nothing can be read.

    For what is to be told before the weights are read, which `load_newest` does.
    """
    for path in checkpoints(folder):
        try:
            facts: dict[str, Any] = parse_json(
                read_bounded(path / "facts.json", RUN.most), lenient=True
            )
        except (OSError, ValueError):
            continue
        return facts
    return None


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        digests = parse_json(read_bounded(path / MANIFEST, RUN.most))
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
        facts = parse_json(read_bounded(path / "facts.json", RUN.most), lenient=True)
        tensors = {file.stem: read_tensors(file) for file in path.glob("*.safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"Cannot read the checkpoint {path}: {error}.") from error
    return State(facts.pop("step"), tensors, facts)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that steps have made of an optimizer, as named tensors and plain numbers.

    "3.exp_avg" is of the fourth parameter, "group.0.d" of the first group: there Prodigy and
    schedule-free keep what they know. What the configuration says is not part of it.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    found = {str(index): state for index, state in optimizer.state_dict()["state"].items()}
    for number, group in enumerate(optimizer.param_groups):
        # Sharded, Prodigy's groups share their tensors; a file holds each once.
        found[f"group.{number}"] = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in changed_by_steps(optimizer, group).items()
        }
    for prefix, values in found.items():
        for path, value in _leaves(values, prefix):
            (tensors if isinstance(value, Tensor) else numbers)[path] = value
    return tensors, numbers


@torch.no_grad()
def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: Mapping[str, Any]
) -> None:
    """Give an optimizer built for the same parameters the state that `pack_optimizer` read."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        for name in changed_by_steps(optimizer, group).keys() & optimizer.defaults.keys():
            group[name] = optimizer.defaults[name]
    for key, value in {**tensors, **numbers}.items():
        first, *path = key.split(".")
        if first == "group":
            number, name = path
            groups[int(number)][name] = _beside(parameters[0], value)
            continue
        inner = state.setdefault(int(first), {})
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = _in_layout_of(parameters[int(first)], value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


CONFIGURED = ("params", "param_names", "name", "lr", OWN_RATE, "weight_decay")
"""Values of a group that are its own and not made by steps."""


def changed_by_steps(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group that are not those it was built with."""
    return {
        name: value
        for name, value in group.items()
        if name not in CONFIGURED
        and (isinstance(value, Tensor) or value != optimizer.defaults.get(name))
    }


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Values by their dotted names; bitsandbytes keeps a table in a parameter's state."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _beside(parameter: Tensor, value: Any) -> Any:
    return value.to(parameter.device) if isinstance(value, Tensor) else value


def _in_layout_of(parameter: Tensor, value: Any) -> Any:
    """A tensor of the parameter's shape in the parameter's layout: another one may round."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        empty = torch.empty_like(parameter, dtype=value.dtype)
        return empty.copy_(split_like(value, empty))
    return value


def digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
