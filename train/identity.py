"""What makes a run this run, so that it does not go on as another."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from t2i.errors import ArgumentError
from train.assembly import Facts
from train.checkpoint import State
from train.config import RunConfig, difference
from train.targets.target import Target


def identity(config: RunConfig, model: Facts, target: Target) -> dict[str, Any]:
    """What makes a run this run: its configuration, its model's, and what it does not train."""
    return {
        "config": config.model_dump(mode="json"),
        "model": model,
        "frozen": frozen_digest(target),
    }


def check_same_run(out: Path, state: State, ours: dict[str, Any]) -> None:
    """Raise ArgumentError, with the differences, where the checkpoint is of another run."""
    changes = difference(state.facts["config"], ours["config"])
    changes += [f"[model] {change}" for change in difference(state.facts["model"], ours["model"])]
    if state.facts["frozen"] != ours["frozen"]:
        changes.append("the weights of the frozen parts")
    if changes:
        raise ArgumentError(
            f"The run in {out} was started otherwise: {'; '.join(changes)}. "
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
