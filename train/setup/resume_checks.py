"""What makes a run this run, so that it does not go on as another."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from t2i.errors import ArgumentError
from train.checkpoint import State
from train.config.config_changes import list_forbidden_changes
from train.config.error_messages import explain_validation_error
from train.config.run_config import RunConfig
from train.setup.assembly import Facts
from train.targets.target import Target

DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


def identity(config: RunConfig, model: Facts, target: Target) -> dict[str, Any]:
    """What makes a run this run: its configuration, its model's, and what it does not train."""
    return {
        "config": config.model_dump(mode="json"),
        "model": model,
        "frozen": frozen_digest(target),
    }


def check_same_config(out: Path, facts: Mapping[str, Any], config: RunConfig) -> None:
    """Raise ArgumentError, with the differences, where a checkpoint's facts are of another run's
    configuration: what can be told before anything is read."""
    refuse(out, changed_keys(out, facts, config.model_dump(mode="json")))


def check_same_run(out: Path, state: State, ours: dict[str, Any]) -> None:
    """Raise ArgumentError, with the differences, where the checkpoint is of another run."""
    changes = changed_keys(out, state.facts, ours["config"])
    model_before, model = ({**facts["model"]} for facts in (state.facts, ours))
    if model_before.pop("pictures", None) != model.pop("pictures", None):
        changes.append("the pictures, or what is said of them")
    changes += [f"[model] {change}" for change in list_forbidden_changes(model_before, model)]
    if state.facts["frozen"] != ours["frozen"]:
        changes.append("the weights of the frozen parts")
    refuse(out, changes)


def changed_keys(out: Path, facts: Mapping[str, Any], config: dict[str, Any]) -> list[str]:
    # Keys that are younger than the run have their defaults.
    try:
        before = RunConfig.model_validate(facts["config"]).model_dump(mode="json")
    except ValidationError as error:
        raise ArgumentError(
            f"The run in {out} was started by another version of t2i, whose configuration this one "
            f"does not read: {explain_validation_error(error, RunConfig)}. "
            "Go on with that version, or choose another folder with --out."
        ) from error
    return list_forbidden_changes(before, config)


def refuse(out: Path, changes: Sequence[str]) -> None:
    if changes:
        told = "; ".join(DIGEST.sub(r"\1...", change) for change in changes)
        raise ArgumentError(
            f"The run in {out} was started otherwise: {told}. "
            "Go on with the old configuration, or choose another folder with --out."
        )


def frozen_digest(target: Target) -> str:
    """A digest of the parameters that are not trained; a run may not go on over other ones."""
    digest = hashlib.sha256()
    for name, parameter in sorted(target.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(
                parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()
