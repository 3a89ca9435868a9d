"""Presets of a model: named sets of sampling settings, from the t2i.json of its folder.

Nothing here imports torch: the command line reads them before it loads anything.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.loading.t2i_json import parse_t2i_json, read_t2i_json
from t2i.denoiser.sampler_names import is_sampler_or_scheduler_name
from t2i.denoiser.sampling_defaults import MAX_STEPS
from t2i.errors import ArgumentError, ModelError, suggest_choice
from t2i.safe_reading import MODEL_CONFIG_KIND, parse_json, read_bytes

EXACT = "exact"
"""Preset that every model has: its plain defaults."""
FAST = "fast"
"""Preset that `--fast` stands for."""
PRESETS_KEY = "presets"
"""Key of a t2i.json."""
PRESET_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_PRESETS = 20
PRESETS_REMEDY = (
    'Expected {"presets": {"fast": {"steps": 4, "guidance_scale": 1.0, "sampler": "lcm", '
    '"loras": [{"path": "fast.safetensors"}]}}}; mend the file, or write them anew with t2i tune.'
)
ShortText = Annotated[str, Field(min_length=1, max_length=500)]
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Difference = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class PresetLora(BaseModel):
    """LoRA of a preset, with its strength.

    path : below the folder of the file that names it, with "/" between its parts
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    scale: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 1.0

    @field_validator("path")
    @classmethod
    def check_path_is_below(cls, path: str) -> str:
        """Return a path that stays below its folder; raise ValueError for any other."""
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or not parts:
            raise ValueError(f"expected a path below the model's folder, got {path!r:.80}")
        if not path.endswith(".safetensors"):
            raise ValueError(f"expected a .safetensors file, got {path!r:.80}")
        return path


class PresetCost(BaseModel):
    """Cost of a preset: what it takes and saves, as `t2i tune` has measured it on some machine.

    time : its time as a share of that of `exact`, from prompt to pixels, with the interval
    said : points by which more of its images than of those of `exact` show everything that their
        caption says, paired, with the interval; None where no suite judges the model
    distance : root mean square distance of its images to those of `exact`, of pixels from 0 to 1
    captions : number of the images
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: Ratio
    time_interval: tuple[Ratio, Ratio] | None = None
    said: Difference | None = None
    said_interval: tuple[Difference, Difference] | None = None
    distance: Ratio | None = None
    captions: Annotated[int, Field(ge=1)] | None = None


class Preset(BaseModel):
    """Named sampling settings of a model; None for those that are the model's own.

    guidance_method : composition of guidance, as --method takes it: "cfg:stop=0.5"
    cache : caches, as --cache takes them: "deep:every=3"
    weights : fingerprint of the weights that it was chosen for, see
        `t2i.attention.probes.presence.compute_attention_fingerprint`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    guidance_method: ShortText | None = None
    sampler: ShortText | None = None
    cache: Annotated[tuple[ShortText, ...], Field(max_length=8)] = ()
    loras: Annotated[tuple[PresetLora, ...], Field(max_length=8)] = ()
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    cost: PresetCost | None = None

    @field_validator("sampler")
    @classmethod
    def check_sampler_is_known(cls, sampler: str | None) -> str | None:
        """Return the name of a known sampler; raise ValueError for any other."""
        if sampler is not None and not is_sampler_or_scheduler_name(sampler):
            raise ValueError(f"unknown sampler {sampler!r:.80}")
        return sampler


class PresetsFile(BaseModel):
    """Format of a model's t2i.json, or of a file of presets, of which only they are read."""

    presets: Annotated[dict[str, Preset], Field(max_length=MAX_PRESETS)] = {}

    @field_validator("presets")
    @classmethod
    def check_names(cls, presets: dict[str, Preset]) -> dict[str, Preset]:
        """Return presets with valid names; raise ValueError for any other."""
        for name in presets:
            if name == EXACT:
                raise ValueError(f"{EXACT!r} is always the model's defaults: take it out")
            if not PRESET_NAME_PATTERN.fullmatch(name):
                raise ValueError(
                    f"expected a name of small letters, digits and -, got {name!r:.80}"
                )
        return presets


@dataclass(frozen=True, slots=True)
class ModelPresets:
    """Presets of one model by name, without `exact`, and the folder below which their LoRAs are.

    model : name or path by which the model was asked for
    path : of the file that has them: the model's own t2i.json, unless `is_of_model` is False
    """

    model: str
    path: Path
    by_name: Mapping[str, Preset] = field(default_factory=dict)
    is_of_model: bool = True

    @property
    def folder(self) -> Path:
        """Folder below which the LoRAs of the presets are."""
        return self.path.parent

    def get(self, name: str) -> Preset:
        """Return a preset by its name; `exact` is always there.

        Raises ModelError where the model has none at all, ArgumentError for an unknown name.
        """
        if name == EXACT:
            return Preset()
        if not self.by_name:
            raise ModelError(
                f"The model {self.model} has no preset {name!r:.80}, nor any but {EXACT}. Measure "
                f"and choose them on this machine with: t2i tune {self.model}"
            )
        if name not in self.by_name:
            hint = suggest_choice(name[:80], [EXACT, *self.by_name])
            raise ArgumentError(f"The model {self.model} has no preset {name!r:.80}. {hint}")
        return self.by_name[name]


def read_model_presets(model: str, place: Path) -> ModelPresets:
    """Return the presets in the t2i.json of a model; none for a single file, or without one.

    place : folder or file of the model
    Raises ModelError for a t2i.json that is invalid.
    """
    path = place / MODEL_NOTES_FILE
    notes = read_t2i_json(place, PresetsFile, PRESETS_REMEDY)
    return ModelPresets(model, path, {} if notes is None else notes.presets)


def read_presets_file(model: str, path: Path) -> ModelPresets:
    """Return the presets in a file of their own, as `t2i tune --output` writes it.

    Raises ModelError for a file that is missing or invalid.
    """
    if not path.is_file():
        raise ModelError(f"No file of presets {path}: t2i tune {model} --output {path} writes it.")
    content = read_bytes(path, MODEL_CONFIG_KIND)
    return ModelPresets(model, path, parse_presets(content, path), is_of_model=False)


def parse_presets(
    notes: str | bytes | None, path: Path = Path(MODEL_NOTES_FILE)
) -> dict[str, Preset]:
    """Parse the presets in the text of a t2i.json. Raises ModelError if it is invalid."""
    if notes is None:
        return {}
    return parse_t2i_json(notes, PresetsFile, PRESETS_REMEDY, path).presets


def insert_presets(notes: str | bytes | None, presets: Mapping[str, Preset]) -> str:
    """Return the text of a t2i.json with these presets in place of its own, and everything else as
    it was; None stands for a model without one.

    Without presets it has no key for them.
    """
    content = {} if notes is None else parse_json(notes)
    content.pop(PRESETS_KEY, None)
    if not presets:
        return _format_notes(content)
    shown = {
        name: one.model_dump(mode="json", exclude_defaults=True) for name, one in presets.items()
    }
    return _format_notes(content | {PRESETS_KEY: shown})


def remove_presets(notes: bytes) -> bytes | None:
    """Return the text of a t2i.json without its presets, as t2i writes it, however it was indented;
    None where nothing else is in it.
    """
    content = {key: value for key, value in parse_json(notes).items() if key != PRESETS_KEY}
    return _format_notes(content).encode() if content else None


def _format_notes(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
