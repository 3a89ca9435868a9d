"""Facts that a run depends on, as JSON data: runs with equal facts are equal."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from t2i.conditioning.guidance_registry import guidance_from_dict, guidance_to_dict
from t2i.conditioning.run_state import Guidance
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

MAX_FINGERPRINT_VALUES = 1024
"""Most values of each weight that the fingerprint covers."""
RunFacts = dict[str, Any]
"""JSON data of a run by name."""


def compute_model_fingerprint(pipe: Any) -> str:
    """Return a fast SHA-256 fingerprint of a model's weights.

    It covers names, shapes and evenly spaced values of all weights, and the scales of LoRA layers.
    """
    sha = hashlib.sha256()
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        model = getattr(pipe, part, None)
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


def check_matches_recorded_run(kept: RunFacts, here: RunFacts) -> None:
    """Raise ArgumentError where the facts of an edit's run differ from those of the recorded
    source's run.
    """
    for name, value in here.items():
        if kept.get(name) != value:
            raise ArgumentError(
                f"The source was recorded with {name}={short_repr(kept.get(name))}, but this call "
                f"or pipeline has {name}={short_repr(value)}. Leave {name} as it was, or "
                "record the source again."
            )


@dataclass(frozen=True, kw_only=True)
class SourceRunSettings:
    """Settings of the run of a source that is recorded, which its edits repeat: arguments of a
    pipeline call, None if not given.
    """

    height: int | None
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_rescale: float | None
    guidance: Guidance | None
    negative_prompt: str | Prompt | None
    eta: float | None
    clip_skip: int | None
    cross_attention_kwargs: Mapping[str, object] | None

    def to_arguments(self) -> dict[str, Any]:
        """Return all settings by name, None included, as arguments of a pipeline call."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def given_arguments(self) -> dict[str, Any]:
        """Settings by name that the user gave, which are those that are not None."""
        return {name: value for name, value in self.to_arguments().items() if value is not None}


def prompt_to_json(prompt: str | Prompt) -> RunFacts:
    """Convert a prompt to JSON data: its text, and for a Prompt its dialect and weights."""
    if isinstance(prompt, str):
        return {"text": prompt}
    return {"text": prompt.text, "dialect": prompt.dialect, "weights": prompt.weights}


def prompt_from_json(facts: Mapping[str, Any]) -> str | Prompt:
    """Convert JSON data that `prompt_to_json` returned back to a prompt."""
    text: str = facts["text"]
    return text if len(facts) == 1 else Prompt(**facts)


def collect_run_facts(pipe: Any, settings: Mapping[str, Any]) -> RunFacts:
    """Collect everything a run depends on beside its prompts, as JSON data: settings, weights,
    sampler.
    """
    config = dict(pipe.scheduler.config)
    # diffusers makes this list from a set, so that its order differs from process to process.
    if "_use_default_values" in config:
        config["_use_default_values"] = sorted(config["_use_default_values"])
    sampler_config = json.dumps(config, sort_keys=True, default=str)
    values = dict(settings)
    if values.get("guidance") is not None:
        values["guidance"] = guidance_to_dict(values["guidance"])
    if values.get("negative_prompt") is not None:
        values["negative_prompt"] = prompt_to_json(values["negative_prompt"])
    if values.get("cross_attention_kwargs") is not None:
        values["cross_attention_kwargs"] = dict(values["cross_attention_kwargs"])
    return values | {
        "model": compute_model_fingerprint(pipe),
        "sampler": type(pipe.scheduler).__name__,
        "sampler_config": hashlib.sha256(sampler_config.encode()).hexdigest(),
        "precision": str(pipe.unet.dtype),
    }


def reuse_recorded_settings(
    pipe: Any, kept: RunFacts, settings: SourceRunSettings, seed: int | None
) -> dict[str, Any]:
    """Return the settings of a recorded source as call arguments for its edits.

    Raises ArgumentError if other settings are given, or the pipeline is another one.
    """
    given = settings.given_arguments
    if seed is not None:
        given["seed"] = seed
    check_matches_recorded_run(kept, collect_run_facts(pipe, given))
    return restore_settings(kept).to_arguments()


def restore_settings(kept: RunFacts) -> SourceRunSettings:
    """Return the settings of a recorded run from its facts."""
    values = {field.name: kept.get(field.name) for field in fields(SourceRunSettings)}
    if values["guidance"] is not None:
        values["guidance"] = guidance_from_dict(values["guidance"])
    if values["negative_prompt"] is not None:
        values["negative_prompt"] = prompt_from_json(values["negative_prompt"])
    return SourceRunSettings(**values)


def short_repr(value: object) -> str:
    """Return the first 60 characters of a value's repr."""
    return f"{value!r:.60}"
