"""Resuming a run: its folder is locked, its checkpoint read, and its configuration, model and data
checked to be those that it began with.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from pydantic import ValidationError

from t2i.errors import ArgumentError, TrainingError
from t2i.run_folder import locking_folder
from train.cache.model_digests import tensor_to_bytes
from train.checkpoint import (
    CHECKPOINT_FOLDER,
    TrainingState,
    read_newest_checkpoint,
    read_newest_checkpoint_json,
)
from train.config.config_changes import list_forbidden_changes
from train.config.error_messages import explain_first_validation_error
from train.config.run_config import RunConfig
from train.parallel.processes import run_on_all_processes_and_gather
from train.setup.assembly import ModelIdentity
from train.targets.target import TrainingTarget

DIGEST_PATTERN = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


def build_config_and_model_identity(
    config: RunConfig, model: ModelIdentity, target: TrainingTarget
) -> dict[str, Any]:
    """Return what identifies a run and must be unchanged when it is resumed: configuration,
    model, digest of frozen weights.
    """
    return {
        "config": config.model_dump(mode="json"),
        "model": model,
        "frozen": digest_frozen_weights(target),
    }


def lock_run_folder_and_check_config(config: RunConfig, out: Path, stack: ExitStack) -> None:
    """Lock the run's folder against other processes until `stack` closes.

    Raises ArgumentError where it holds a run of another configuration.
    """
    stack.enter_context(locking_folder(out))
    facts = read_newest_checkpoint_json(out / CHECKPOINT_FOLDER)
    if facts is not None:
        check_checkpoint_has_same_config(out, facts, config)


def read_newest_checkpoint_on_all(accelerator: Accelerator, out: Path) -> TrainingState | None:
    """Read the newest complete checkpoint of a run on every process, the same one on all; None
    where it has none.

    Raises TrainingError where the processes find different ones.
    """
    states: list[TrainingState | None] = []

    def read() -> int:
        states.append(read_newest_checkpoint(out / CHECKPOINT_FOLDER))
        return states[0].step if states[0] else 0

    found, (state,) = {*run_on_all_processes_and_gather(accelerator, read)}, states
    if len(found) > 1:
        raise TrainingError(
            f"The processes found different checkpoints in {out}: after the steps "
            f"{', '.join(map(str, sorted(found)))}. All of them must see one folder."
        )
    return state


def check_checkpoint_has_same_config(
    out: Path, facts: Mapping[str, Any], config: RunConfig
) -> None:
    """Raise ArgumentError, with the differences, if the configuration in a checkpoint differs from
    that of the run that resumes from it.

    This needs no data and no weights, so it is checked first.
    """
    _refuse_changes(out, _changed_keys(out, facts, config.model_dump(mode="json")))


def check_checkpoint_is_of_same_run(out: Path, state: TrainingState, ours: dict[str, Any]) -> None:
    """Raise ArgumentError, with the differences, if a checkpoint has another configuration, model,
    data or frozen weights than the run that resumes from it.
    """
    changes = _changed_keys(out, state.facts, ours["config"])
    model_before, model = ({**facts["model"]} for facts in (state.facts, ours))
    if model_before.pop("pictures", None) != model.pop("pictures", None):
        changes.append("the pictures or their captions")
    changes += [f"[model] {change}" for change in list_forbidden_changes(model_before, model)]
    if state.facts["frozen"] != ours["frozen"]:
        changes.append("the weights of the frozen parts")
    _refuse_changes(out, changes)


def _changed_keys(out: Path, facts: Mapping[str, Any], config: dict[str, Any]) -> list[str]:
    # Keys that were added since the run began have their defaults.
    try:
        before = RunConfig.model_validate(facts["config"]).model_dump(mode="json")
    except ValidationError as error:
        raise ArgumentError(
            f"The run in {out} was started by another version of t2i, whose configuration this one "
            f"does not read: {explain_first_validation_error(error, RunConfig)}. "
            "Continue with that version, or choose another folder with --out."
        ) from error
    return list_forbidden_changes(before, config)


def _refuse_changes(out: Path, changes: Sequence[str]) -> None:
    if changes:
        listed = "; ".join(DIGEST_PATTERN.sub(r"\1...", change) for change in changes)
        raise ArgumentError(
            f"The run in {out} was started with another configuration: {listed}. "
            "Continue with the old configuration, or choose another folder with --out."
        )


def digest_frozen_weights(target: TrainingTarget) -> str:
    """Return the SHA-256 of the parameters that are not trained."""
    digest = hashlib.sha256()
    for name, parameter in sorted(target.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(tensor_to_bytes(parameter))
    return digest.hexdigest()
