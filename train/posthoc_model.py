"""Exporting the model of a finished run with a post-hoc EMA of another length."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from t2i.atomic_files import NameTakenError
from t2i.atomic_folders import atomic_new_path
from t2i.errors import ArgumentError
from t2i.safe_reading import RUN_FILE_KIND, read_bounded
from train.config.run_config import RunConfig
from train.loop import NUM_LATENT_SCALE_PICTURES, TrainingRun
from train.model_notes import build_model_notes
from train.optim.ema import using_weight_values
from train.optim.ema_snapshots import SNAPSHOT_FOLDER, list_snapshots
from train.optim.posthoc_ema import AverageProfile, reconstruct_average_and_error
from train.parallel.processes import open_accelerator


@dataclass(frozen=True, slots=True)
class ExportedPosthocEMAModel:
    """Result of exporting a model whose weights are a post-hoc EMA: its folder, EMA length, step,
    number of snapshots and error.

    error : distance of its profile from the requested one, relative to that one's norm
    """

    folder: Path
    length: float
    step: int
    snapshots: int
    error: float


def export_posthoc_ema_model(
    run: Path, length: float, step: int | None = None, out: Path | None = None
) -> ExportedPosthocEMAModel:
    """Export a run's model with the post-hoc EMA of a length after a step, the last by default.

    Raises ArgumentError for lengths and steps that its snapshots do not cover, NameTakenError for
    an existing folder.
    """
    config = read_run_config(run)
    found = list_snapshots(run / SNAPSHOT_FOLDER)
    wanted = AverageProfile(length, step if step is not None else found[-1].step if found else 0)
    folder = out or run / f"model-length-{length:g}-step-{wanted.step}"
    if os.path.lexists(folder):
        raise NameTakenError(folder)
    average, error = reconstruct_average_and_error(found, wanted)

    with open_accelerator(config.train, config.optimizer.name) as accelerator:
        training = TrainingRun(config, run, accelerator)
        average_notes = {"length": length, "step": wanted.step, "error": error}
        notes = {**build_model_notes(config, wanted.step), "average": average_notes}
        batch = training.load_first_batch(NUM_LATENT_SCALE_PICTURES)
        with (
            using_weight_values(average, training.target.collect_trained_parameters_by_name()),
            atomic_new_path(folder) as place,
        ):
            training.target.export(place, batch, config.export, notes)
    return ExportedPosthocEMAModel(folder, length, wanted.step, len(found), error)


def read_run_config(run: Path) -> RunConfig:
    """Read the configuration of a training run from its folder.

    Raises ArgumentError for a folder that is not a run's.
    """
    try:
        return RunConfig.model_validate_json(
            read_bounded(run / "config.json", RUN_FILE_KIND.max_bytes)
        )
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise ArgumentError(
            f"{run} is not the folder of a run: its config.json cannot be read ({reason}). "
            "Name the folder that `t2i train` wrote to."
        ) from error
