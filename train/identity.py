"""What makes a run this run, so that it does not go on as another."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from t2i.denoiser.build import ModelConfig
from t2i.errors import ArgumentError
from train.checkpoint import State
from train.config import RunConfig, difference
from train.targets import Target


def identity(config: RunConfig, model: ModelConfig, target: Target) -> dict[str, Any]:
    """What makes a run this run: its configuration, its model's, and what it does not train."""
    vocabulary = hashlib.sha256(
        json.dumps(target.components.tokenizer.get_vocab(), sort_keys=True).encode()
    )
    return {
        "config": config.model_dump(mode="json"),
        "model": model.model_dump(mode="json", exclude={"tokenizer": {"folder"}})
        | {"scaling": target.components.vae.config["scaling_factor"]}
        | {"vocabulary": vocabulary.hexdigest()},
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
