"""What a run depends on, as JSON holds it: two runs of the same facts are the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from t2i.conditioning.guidance_registry import from_dict as guidance_from_dict
from t2i.conditioning.guidance_registry import to_dict as guidance_to_dict
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

VALUES = 1024
"""Of each weight, that a model is known by."""
Facts = dict[str, Any]
"""What JSON can hold."""


def fingerprint(pipe: Any) -> str:
    """SHA-256 over names, shapes and evenly spread values of all weights, and how strongly LoRA
    layers act: what tells two models apart in a moment."""
    sha = hashlib.sha256()
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        model = getattr(pipe, part, None)
        if model is None:
            continue
        for name, weight in model.state_dict().items():
            sha.update(f"{part}.{name} {tuple(weight.shape)} {weight.dtype}".encode())
            if weight.device.type != "meta":  # offloaded: its name must do
                spread = weight.detach().reshape(-1)[:: max(1, weight.numel() // VALUES)]
                sha.update(spread.to("cpu", torch.float64).numpy().tobytes())
        for name, module in model.named_modules():
            if isinstance(scaling := getattr(module, "scaling", None), dict):
                active = getattr(module, "active_adapters", ())
                merged = getattr(module, "merged_adapters", ())
                sha.update(f"{name} {sorted(scaling.items())} {active} {merged}".encode())
    return sha.hexdigest()


def check_facts(kept: Facts, here: Facts) -> None:
    """Raise ArgumentError where an edit asks for another run than the one that was kept."""
    for name, value in here.items():
        if kept.get(name) != value:
            raise ArgumentError(
                f"The source was remembered with {name}={short(kept.get(name))}, and this call or "
                f"pipeline has {name}={short(value)}. Leave {name} as it was, or remember the "
                "source anew."
            )


def prompt_facts(prompt: str | Prompt) -> Facts:
    if isinstance(prompt, str):
        return {"text": prompt}
    return {"text": prompt.text, "dialect": prompt.dialect, "weights": prompt.weights}


def facts_of(pipe: Any, settings: Mapping[str, Any]) -> Facts:
    """What a run depends on beside its prompts, as JSON holds it."""
    config = dict(pipe.scheduler.config)
    # diffusers makes this list from a set, so that its order differs from process to process.
    if "_use_default_values" in config:
        config["_use_default_values"] = sorted(config["_use_default_values"])
    sampler_config = json.dumps(config, sort_keys=True, default=str)
    values = dict(settings)
    if values.get("guidance") is not None:
        values["guidance"] = guidance_to_dict(values["guidance"])
    if values.get("negative_prompt") is not None:
        values["negative_prompt"] = prompt_facts(values["negative_prompt"])
    if values.get("cross_attention_kwargs") is not None:
        values["cross_attention_kwargs"] = dict(values["cross_attention_kwargs"])
    return values | {
        "model": fingerprint(pipe),
        "sampler": type(pipe.scheduler).__name__,
        "sampler_config": hashlib.sha256(sampler_config.encode()).hexdigest(),
        "precision": str(pipe.unet.dtype),
    }


def recalled(pipe: Any, kept: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the source was remembered with, as arguments of a call.

    Raises ArgumentError where others are given, or the pipeline is another.
    """
    said = {name: value for name, value in given.items() if value is not None}
    check_facts(kept, facts_of(pipe, said))
    told = {name: kept.get(name) for name in given if name != "seed"}
    if told["guidance"] is not None:
        told["guidance"] = guidance_from_dict(told["guidance"])
    if told["negative_prompt"] is not None:
        negative = told["negative_prompt"]
        told["negative_prompt"] = negative["text"] if len(negative) == 1 else Prompt(**negative)
    return told


def short(value: object) -> str:
    return f"{value!r:.60}"
