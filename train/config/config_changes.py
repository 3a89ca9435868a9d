"""Differences of two configurations, and the keys that may change when a run is resumed."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

RESUME_SAFE_KEYS = (
    "model",
    "target.vae",
    "target.unet",
    "target.text_encoder",
    "target.recogniser",
    "target.base",
    "target.network",
    "data.folder",
    "data.subsets.*.folder",
    "data.subsets.*.pairs",
    "data.subsets.*.losers",
    "data.subsets.*.tars*",
    "data.subsets.*.dataset",
    "data.subsets.*.kohya",
    "data.subsets.*.masks",
    "data.subsets.*.hints",
    "prior.folder",
    "prior.batch_size",
    "train.steps",
    "train.accumulation",
    "train.compile",
    "train.device",
    "train.workers",
    "train.log_every",
    "train.tensorboard",
    "train.checkpoint_every",
    "train.keep",
    "train.bad_steps",
    "cache.*",
    "samples.*",
    "validation.*",
    "export.*",
    "ema.snapshot_every",
)
"""Patterns of keys that may change when a run is resumed; a change of any other key is refused.

Paths may change: digests of the files behind them are kept in the checkpoint, see
`train.setup.resume_checks.build_config_and_model_identity`.
"""


def list_forbidden_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List differences of two dumped configs that forbid resuming: "train.batch_size: 32 -> 64"."""
    flat_before, flat_after = flatten_config(before), flatten_config(after)
    return [
        f"{key}: {flat_before.get(key)} -> {flat_after.get(key)}"
        for key in sorted({*flat_before, *flat_after})
        if flat_before.get(key) != flat_after.get(key)
        and not any(fnmatchcase(key, pattern) for pattern in RESUME_SAFE_KEYS)
    ]


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config into dotted keys; entries of a list of tables are numbered."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, Mapping):
            leaves |= flatten_config(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
