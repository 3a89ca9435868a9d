"""Snapshots of power-function averages: `ema/step-00000250.safetensors`, one file for a step."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from t2i.atomic_files import write_atomically
from t2i.errors import OutputError, TrainingError
from t2i.safe_reading import parse_json
from t2i.safe_reading.tensors import open_tensors

SNAPSHOT_FOLDER = "ema"
"""Folder of the snapshots in the folder of a run."""
SNAPSHOT_NAME_PATTERN = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True, slots=True)
class AveragesSnapshotFile:
    """Snapshot file of the power-function averages after `step` steps, one per length."""

    path: Path
    step: int
    lengths: tuple[float, ...]


def save_snapshot(
    folder: Path, averages: Mapping[str, Tensor], lengths: Sequence[float], step: int
) -> Path:
    """Write a snapshot of the averages after `step` steps, completely or not at all.

    Raises OutputError when the disk refuses.
    """
    path = folder / f"step-{step:08d}.safetensors"
    # Under one key: safetensors writes several keys in an order that changes.
    facts = {"facts": json.dumps({"step": step, "lengths": lengths})}
    tensors = {name: value.contiguous() for name, value in averages.items()}

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, facts)
        except SafetensorError as error:  # raised where a file cannot be written
            raise OutputError(
                f"Cannot write {path}: {error}. Free some space or choose another folder."
            ) from error

    write_atomically(path, write)
    return path


def list_snapshots(folder: Path) -> list[AveragesSnapshotFile]:
    """List the snapshots of a folder, oldest first. Raises TrainingError for an unreadable file."""
    return [_read_snapshot(path) for path in sorted(_snapshot_paths(folder), key=_step_of)]


def remove_snapshots_after(folder: Path, step: int) -> None:
    """Remove the snapshots after `step`, which a run that resumes there writes again."""
    for path in _snapshot_paths(folder):
        if _step_of(path) > step:
            path.unlink()


def _snapshot_paths(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob("step-*.safetensors")
        if SNAPSHOT_NAME_PATTERN.fullmatch(path.name)
    ]


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _read_snapshot(path: Path) -> AveragesSnapshotFile:
    try:
        with open_tensors(path) as file:
            facts = parse_json(file.metadata()["facts"])
        return AveragesSnapshotFile(path, facts["step"], tuple(facts["lengths"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"Cannot read the snapshot {path}: {error}. Move it away; any length can be rebuilt "
            "from the others, less exactly."
        ) from error
