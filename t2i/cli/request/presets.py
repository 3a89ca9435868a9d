"""Presets of a model applied to requests: they fill what the user has not named."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import Any

from t2i.cli.applied_preset import AppliedPreset
from t2i.cli.option_parsing.cache_options import check_cache_options
from t2i.cli.request.input_files import InputFileWithScale
from t2i.cli.request.request import Request, RequestOverrides
from t2i.denoiser.loading.model_location import locate_model
from t2i.denoiser.presets import (
    EXACT,
    ModelPresets,
    Preset,
    read_model_presets,
    read_presets_file,
)
from t2i.denoiser.sampler_name import normalize_sampler_name
from t2i.errors import ArgumentError, ModelError, T2IError

SETTINGS = {
    "num_inference_steps": ("steps", "steps"),
    "guidance_scale": ("guidance_scale", "guidance"),
    "guidance_method": ("guidance_method", "method"),
    "sampler": ("sampler", "sampler"),
}
"""Field of a request -> field of a preset, and option of the command line without its dashes."""


def fill_from_preset(
    overrides: RequestOverrides, preset: str | None, model: str
) -> RequestOverrides:
    """Return overrides of a request in which a preset has filled what they do not name; a preset's
    LoRAs are added to named ones.

    preset : its name, or FILE.json:NAME for one in a file of its own; None changes nothing
    model : name or path of the model whose preset it is
    Raises ModelError or ArgumentError for a preset that the model has not, or that cannot be used.
    """
    if preset is None:
        return overrides
    return fill_from_model_presets(overrides, *find_presets(preset, model))


def fill_from_model_presets(
    overrides: RequestOverrides,
    presets: ModelPresets,
    name: str,
    others: RequestOverrides = RequestOverrides(),
) -> RequestOverrides:
    """Return overrides filled from one of the given presets, as `fill_from_preset` does.

    others : settings that the user named on the command of a prompts file, which win, too
    """
    chosen = presets.get(name)
    if name == EXACT:
        return replace(overrides, preset=AppliedPreset(name=EXACT))
    _check_can_be_used(presets, name, chosen)
    if overrides.inversion is not None and (overrides.image or others.image) is not None:
        raise ArgumentError(
            f"Got the preset {name} for a photo that is inverted: presets are chosen by pictures "
            "that are drawn from noise. Leave it out, or name its settings one by one."
        )
    filled: dict[str, Any] = {}
    replaced: list[str] = []
    for field, (own_name, option) in SETTINGS.items():
        value = getattr(chosen, own_name)
        named = getattr(overrides, field)
        named = getattr(others, field) if named is None else named
        if named is None:
            filled[field] = value
        elif value is not None and _normalize(value) != _normalize(named):
            replaced.append(_format_setting(option, value))
    if overrides.cache is None and others.cache is None:
        filled["cache"] = chosen.cache or None
    own = tuple(_iter_loras(presets, chosen))
    given = others.loras if overrides.loras is None else overrides.loras
    if own and given != ():  # "none" takes those of the preset away, too
        filled["loras"] = (*(given or ()), *own)
    applied = AppliedPreset(
        name=name,
        weights=chosen.weights,
        loras=tuple(lora.path for lora in own),
        replaced=tuple(replaced),
    )
    return replace(overrides, preset=applied, **filled)


def remove_recorded_preset(request: Request) -> Request:
    """Return a request of a picture's metadata without the settings of sampling that another preset
    is about to fill, and without the LoRAs of the recorded one.
    """
    known = () if request.preset is None else request.preset.loras
    return replace(
        request,
        num_inference_steps=None,
        guidance_scale=None,
        guidance_method=None,
        sampler=None,
        cache=(),
        loras=tuple(lora for lora in request.loras if lora.path not in known),
        preset=None,
    )


def note_replaced_settings(recorded: Request, request: Request) -> Request:
    """Return a request that was made from a recorded one, whose preset says which of its settings
    have others in their place.
    """
    preset = recorded.preset
    if preset is None or request.preset is not preset:
        return request
    replaced = [
        _format_setting(option, getattr(recorded, field))
        for field, (_, option) in SETTINGS.items()
        if _normalize(getattr(recorded, field)) != _normalize(getattr(request, field))
    ]
    return replace(request, preset=replace(preset, replaced=(*preset.replaced, *replaced)))


def find_preset_warnings(request: Request, weights: str) -> list[str]:
    """Return what speaks against the preset of a request, one text each; [] without a preset.

    weights : fingerprint of the model's weights as they are, without the LoRAs of the request
    """
    preset = request.preset
    if preset is None:
        return []
    found = []
    name = f"The preset {preset.name}"
    if preset.weights is not None and preset.weights != weights:
        found.append(
            f"{name} was chosen for other weights of the model, or another precision: what it "
            f"costs here is not known. Measure it with: t2i tune {request.model}"
        )
    paths = [lora.path for lora in request.loras]
    if missing := [path for path in preset.loras if path not in paths]:
        found.append(
            f"{name} is used without its LoRA {Path(missing[0]).name}, for which its other "
            "settings were chosen: the picture may show nothing. Leave --lora none out."
        )
    if other := [path for path in paths if path not in preset.loras]:
        found.append(
            f"{name} was chosen without the LoRA {Path(other[0]).name}: what it costs beside it is "
            "not known."
        )
    if preset.loras and not missing and (settings := _list_risky_settings(preset)):
        found.append(
            f"{name} has a LoRA that was distilled for {' and '.join(settings)}, in place of which "
            f"the picture has {_describe_settings(request)}: guidance is applied twice, or steps "
            "lie where the LoRA knows none, and garbage is drawn. Leave --guidance, --method and "
            "--sampler out, or the preset."
        )
    return found


def _normalize(value: str | float | None) -> str | float | None:
    """Return a setting as it is compared: two texts may name one sampler, as "LCM" and "lcm"."""
    return normalize_sampler_name(value) if isinstance(value, str) else value


def _format_setting(option: str, value: str | float | None) -> str:
    shown = "of its own" if value is None else value if isinstance(value, str) else f"{value:g}"
    return f"{option} {shown}"


def _list_risky_settings(preset: AppliedPreset) -> Sequence[str]:
    """Return the replaced settings of a preset without which its distilled LoRA fails."""
    return [text for text in preset.replaced if not text.startswith("steps ")]


def _describe_settings(request: Request) -> str:
    method = "" if request.guidance_method is None else f", method {request.guidance_method}"
    scale = "the model's" if request.guidance_scale is None else f"{request.guidance_scale:g}"
    return f"guidance {scale}, sampler {request.sampler or 'of the model'}{method}"


def find_presets(preset: str, model: str) -> tuple[ModelPresets, str]:
    """Return the presets of a model, or those of a file, and the name of one in "NAME" or
    "FILE.json:NAME".
    """
    file, colon, name = preset.strip().rpartition(":")
    if colon and file.endswith(".json"):
        return read_presets_file(model, Path(expanduser(file))), name
    if preset.strip() == EXACT:
        return ModelPresets(model, Path()), EXACT
    return read_model_presets(model, locate_model(model)), preset.strip()


def _iter_loras(presets: ModelPresets, preset: Preset) -> Iterator[InputFileWithScale]:
    """Yield the LoRAs of a preset as files of a request: those of a model's own t2i.json by the
    model's name, so that metadata name no folder of this machine.
    """
    for lora in preset.loras:
        if presets.is_of_model:
            yield InputFileWithScale(path=lora.path, scale=lora.scale, in_model=presets.model)
        else:
            yield InputFileWithScale(path=str(presets.folder / lora.path), scale=lora.scale)


def _check_can_be_used(presets: ModelPresets, name: str, preset: Preset) -> None:
    """Raise ModelError for a preset with text that names no cache or no guidance."""
    try:
        check_cache_options(preset.cache, of_photo=False)
        if preset.guidance_method is not None:
            # Here, for it imports torch, which most requests need much later.
            from t2i.conditioning.guidance_registry import parse_guidance

            parse_guidance(preset.guidance_method, preset.guidance_scale or 1.0)
    except T2IError as error:
        raise ModelError(
            f"Cannot use {presets.path}: presets.{name}: {error} Mend it, or write it anew with "
            f"t2i tune {presets.model}."
        ) from error
