"""The model of a finished run, written anew with averages of another length."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from t2i.atomic_files import NameTaken
from t2i.atomic_folders import new_place
from t2i.errors import ArgumentError
from t2i.safe_reading import RUN, read_bounded
from train.config.run_config import RunConfig
from train.loop import SCALE_PICTURES, Training
from train.model_notes import notes_of
from train.optim.ema import lent
from train.optim.ema_snapshots import FOLDER, snapshots
from train.optim.posthoc_ema import Average, reconstruct
from train.parallel.processes import accelerated


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A folder with a model whose weights are an average of `snapshots` files.

    error : how far its profile is from the one asked for, as a share of that one's norm
    """

    folder: Path
    length: float
    step: int
    snapshots: int
    error: float


def rebuild(run: Path, length: float, step: int | None = None, out: Path | None = None) -> Rebuilt:
    """Write the run's model with the average of `length` after `step` steps, the last by default.

    Raises ArgumentError for what the run has no snapshots of, NameTaken for a folder that is there
    already.
    """
    config = config_of(run)
    found = snapshots(run / FOLDER)
    wanted = Average(length, step if step is not None else found[-1].step if found else 0)
    folder = out or run / f"model-length-{length:g}-step-{wanted.step}"
    if os.path.lexists(folder):
        raise NameTaken(folder)
    average, error = reconstruct(found, wanted)

    with accelerated(config.train, config.optimizer.name) as accelerator:
        training = Training(config, run, accelerator)
        told = {"length": length, "step": wanted.step, "error": error}
        notes = {**notes_of(config, wanted.step), "average": told}
        batch = training.first_batch(SCALE_PICTURES)
        with lent(average, training.target.weights()), new_place(folder) as place:
            training.target.export(place, batch, config.export, notes)
    return Rebuilt(folder, length, wanted.step, len(found), error)


def config_of(run: Path) -> RunConfig:
    """What a run was made by. Raises ArgumentError for a folder that is not a run's."""
    try:
        return RunConfig.model_validate_json(read_bounded(run / "config.json", RUN.most))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise ArgumentError(
            f"{run} is not the folder of a run: its config.json cannot be read ({reason}). "
            "Name the folder that `t2i train` wrote to."
        ) from error
