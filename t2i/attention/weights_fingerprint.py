"""Fast fingerprints of models' weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

MAX_FINGERPRINT_VALUES = 1024
"""Most values of each weight that the fingerprint covers."""


def compute_weights_fingerprint(models: Mapping[str, nn.Module | None]) -> str:
    """Return a fast SHA-256 fingerprint of models' weights, by the names of the models.

    It covers names, shapes and evenly spaced values of all weights, and the scales of LoRA layers.
    """
    sha = hashlib.sha256()
    for part, model in models.items():
        if model is None:
            continue
        for name, weight in model.state_dict().items():
            sha.update(f"{part}.{name} {tuple(weight.shape)} {weight.dtype}".encode())
            if weight.device.type != "meta":  # offloaded: identified by name only
                spread = weight.detach().reshape(-1)[
                    :: max(1, weight.numel() // MAX_FINGERPRINT_VALUES)
                ]
                sha.update(spread.to("cpu", torch.float64).numpy().tobytes())
        for name, module in model.named_modules():
            if isinstance(scaling := getattr(module, "scaling", None), dict):
                active = getattr(module, "active_adapters", ())
                merged = getattr(module, "merged_adapters", ())
                sha.update(f"{name} {sorted(scaling.items())} {active} {merged}".encode())
    return sha.hexdigest()
