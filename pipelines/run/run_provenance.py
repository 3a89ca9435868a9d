"""Facts that a run depends on, as JSON data: runs with equal facts are equal."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from t2i.attention.weights_fingerprint import compute_weights_fingerprint
from t2i.conditioning.guidance_registry import guidance_from_dict, guidance_to_dict
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.controls.control_facts import control_to_dict
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.caches.registry import caches_from_list, caches_to_list
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

RunProvenance = dict[str, Any]
"""JSON data of a run by name."""


def compute_model_fingerprint(pipe: Any) -> str:
    """Return a fast SHA-256 fingerprint of a model's weights.

    It covers names, shapes and evenly spaced values of all weights, and the scales of LoRA layers.
    """
    parts = ("unet", "text_encoder", "text_encoder_2", "vae")
    return compute_weights_fingerprint({part: getattr(pipe, part, None) for part in parts})


def check_matches_recorded_run(kept: RunProvenance, here: RunProvenance) -> None:
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
    pipeline call, None if not given; no controls are none given.
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
    cache: Sequence[Cache] | None = None
    controls: Sequence[Control] = ()

    def to_arguments(self) -> dict[str, Any]:
        """Return all settings by name, None included, as arguments of a pipeline call."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def given_arguments(self) -> dict[str, Any]:
        """Settings by name that the user gave, which are those that are not None."""
        return {name: value for name, value in self.to_arguments().items() if value is not None}


def prompt_to_json(prompt: str | Prompt) -> RunProvenance:
    """Convert a prompt to JSON data: its text, and for a Prompt its dialect and weights."""
    if isinstance(prompt, str):
        return {"text": prompt}
    return {"text": prompt.text, "dialect": prompt.dialect, "weights": prompt.weights}


def prompt_from_json(facts: Mapping[str, Any]) -> str | Prompt:
    """Convert JSON data that `prompt_to_json` returned back to a prompt."""
    text: str = facts["text"]
    return text if len(facts) == 1 else Prompt(**facts)


def collect_run_provenance(pipe: Any, settings: Mapping[str, Any]) -> RunProvenance:
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
    if values.get("cache") is not None:
        # None of them is as none given, as of sources that were recorded before there were any.
        values["cache"] = caches_to_list(values["cache"]) or None
    if controls := values.pop("controls", ()):
        values["controls"] = [control_to_dict(control) for control in controls]
    return values | {
        "model": compute_model_fingerprint(pipe),
        "sampler": type(pipe.scheduler).__name__,
        "sampler_config": hashlib.sha256(sampler_config.encode()).hexdigest(),
        "precision": str(pipe.unet.dtype),
    }


def reuse_recorded_settings(
    pipe: Any, kept: RunProvenance, settings: SourceRunSettings, seed: int | None
) -> dict[str, Any]:
    """Return the settings of a recorded source, but its controls, as call arguments for its edits.

    Raises ArgumentError if other settings are given, or the pipeline is another one.
    """
    given = settings.given_arguments
    del given["controls"]
    if seed is not None:
        given["seed"] = seed
    check_matches_recorded_run(kept, collect_run_provenance(pipe, given))
    return build_settings_from_provenance(kept).to_arguments()


def build_settings_from_provenance(kept: RunProvenance) -> SourceRunSettings:
    """Build SourceRunSettings from the recorded provenance of a run, without its controls, whose
    networks are not recorded.
    """
    names = [field.name for field in fields(SourceRunSettings) if field.name != "controls"]
    values: dict[str, Any] = {name: kept.get(name) for name in names}
    if values["guidance"] is not None:
        values["guidance"] = guidance_from_dict(values["guidance"])
    if values["negative_prompt"] is not None:
        values["negative_prompt"] = prompt_from_json(values["negative_prompt"])
    if values["cache"] is not None:
        values["cache"] = caches_from_list(values["cache"])
    return SourceRunSettings(**values)


def short_repr(value: object) -> str:
    """Return the first 60 characters of a value's repr."""
    return f"{value!r:.60}"
