"""A model's presets in Python: the scheduler and the LoRAs of one, and the arguments of calls."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.base.pipeline import Pipeline
from t2i.adapters import MODEL_PARTS, add_lora, read_lora, remove_lora
from t2i.attention.probes.presence import compute_attention_fingerprint
from t2i.conditioning.guidance_registry import parse_guidance
from t2i.denoiser.caches.registry import parse_cache
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.presets import ModelPresets, Preset, parse_presets
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError

LORA_NAME_PREFIX = "preset"
"""Prefix of the name of a preset's LoRA in peft; its number follows."""


@contextmanager
def using_preset(
    pipe: Pipeline, preset: str | Preset, folder: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Use a preset of a pipeline's model within the block: its scheduler and its LoRAs. Yields the
    arguments of the pipeline's calls: steps, guidance and caches.

    >>> with using_preset(pipe, "fast") as arguments:
    ...     picture = pipe("a blue car", **arguments).images[0]

    preset : its name in the model's t2i.json, such as "exact", or the preset itself
    folder : below which its LoRAs are; None for the model's own

    Warns of weights that it was not chosen for. Raises ModelError or ArgumentError for a preset
    that the model has not.
    """
    place = _find_folder(pipe) if folder is None else folder
    if isinstance(preset, str):
        presets = ModelPresets(str(place), place / MODEL_NOTES_FILE, parse_presets(pipe.notes))
        chosen = presets.get(preset)
    else:
        chosen = preset
    if chosen.weights is not None and chosen.weights != compute_attention_fingerprint(pipe):
        warnings.warn(
            f"The preset {preset if isinstance(preset, str) else ''} was chosen for other weights: "
            "the model was trained further, has a LoRA, or another precision. What it costs is not "
            "known.",
            stacklevel=3,
        )
    models = {part: getattr(pipe, part, None) for part in MODEL_PARTS}
    names = [f"{LORA_NAME_PREFIX}{number}" for number in range(len(chosen.loras))]
    scheduler = pipe.scheduler
    layers = pipe.unet.config.layers_per_block
    try:
        for name, lora in zip(names, chosen.loras, strict=True):
            read = read_lora(
                place / lora.path, layers_per_block=layers if isinstance(layers, int) else 2
            )
            add_lora(models, read, name, lora.scale)
        if chosen.sampler is not None:
            pipe.scheduler = build_scheduler(chosen.sampler, scheduler.config)
        yield build_call_arguments(pipe, chosen)
    finally:
        pipe.scheduler = scheduler
        for name in names:
            remove_lora(models.values(), name)


def build_call_arguments(pipe: Pipeline, preset: Preset) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for the steps, guidance and caches of a preset;
    what it leaves open comes from the model.
    """
    defaults: dict[str, Any] = pipe.defaults
    scale = defaults["guidance_scale"] if preset.guidance_scale is None else preset.guidance_scale
    steps = defaults["num_inference_steps"] if preset.steps is None else preset.steps
    arguments: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": scale}
    if preset.guidance_method is not None:
        arguments["guidance"] = parse_guidance(preset.guidance_method, scale)
    if preset.cache:
        arguments["cache"] = [parse_cache(text) for text in preset.cache]
    return arguments


def _find_folder(pipe: Pipeline) -> Path:
    """Return the folder that a pipeline was loaded from. Raises ArgumentError."""
    name = pipe.name_or_path
    if not name:
        raise ArgumentError(
            "The pipeline was not loaded from a folder: say with folder= where the LoRAs of its "
            "presets are."
        )
    return Path(name)
