"""A run's whole configuration: one TOML, overrides, nothing unknown."""

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2i.errors import ArgumentError, nearest
from t2i.safe_reading import CONFIG, parse_toml, read_toml
from t2i.scenes.scenes import ScenesConfig
from train.cache.config import CacheConfig
from train.config_paths import settle_paths
from train.data.class_picture_config import PriorConfig, check_prior
from train.data.registry import DataConfig
from train.export import ExportConfig
from train.loop_config import LoopConfig
from train.objective.objective import ObjectiveConfig
from train.optim.ema import EMAConfig
from train.optim.learning_rate import RateConfig
from train.optim.optimizer import OptimizerConfig, check_fit
from train.reporting.sample_sheets import SamplesConfig
from train.targets.autoencoder import AutoencoderConfig
from train.targets.caption_matcher import AgreementConfig
from train.targets.denoiser import DenoiserConfig
from train.targets.finetune import FineTuneConfig
from train.targets.recogniser import RecogniserConfig
from train.validation import ValidationConfig, check_can_be_measured

TargetConfig = (
    AutoencoderConfig | DenoiserConfig | FineTuneConfig | RecogniserConfig | AgreementConfig
)
OF_A_MODEL = ("autoencoder", "denoiser")
LEARNS_FROM = {
    "autoencoder": ("scenes", "pictures"),
    "denoiser": ("scenes", "pictures"),
    "finetune": ("pictures", "scenes"),
    "recogniser": ("compositions",),
    "agreement": ("scenes",),
}


class RunConfig(BaseModel):
    """Everything a run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    """The model's TOML, relative to this one, for the parts of one."""
    seed: int = Field(0, ge=0)
    target: TargetConfig = Field(discriminator="kind")
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = Field(ScenesConfig(), discriminator="kind")
    prior: PriorConfig | None = None
    """DreamBooth's class pictures, drawn before the first step where they are missing."""
    train: LoopConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    rate: RateConfig = RateConfig()
    ema: EMAConfig = EMAConfig()
    cache: CacheConfig = CacheConfig()
    samples: SamplesConfig = SamplesConfig()
    validation: ValidationConfig = ValidationConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _fit_target_to_model_and_data(self) -> "RunConfig":
        kind = self.target.kind
        if kind in OF_A_MODEL and self.model is None:
            raise ValueError("The key 'model' is missing; add it.")
        if kind not in OF_A_MODEL and self.model is not None:
            raise ValueError(f"target.kind = {kind!r} is no part of a model: drop the key 'model'.")
        if self.data.kind not in LEARNS_FROM[kind]:
            wanted = " or ".join(map(repr, LEARNS_FROM[kind]))
            raise ValueError(
                f"target.kind = {kind!r} is trained on {wanted}, but data.kind = "
                f"{self.data.kind!r}: set data.kind = {LEARNS_FROM[kind][0]!r}."
            )
        check_prior(self.prior, kind, self.data.kind)
        return self

    @property
    def draws(self) -> bool:
        """Whether there is something to make a sheet of."""
        return bool(self.samples.prompts) or self.target.kind not in ("denoiser", "finetune")

    @model_validator(mode="after")
    def _refuse_an_empty_sheet(self) -> "RunConfig":
        if self.samples.every and not self.draws:
            raise ValueError(
                "samples.every is set, but samples.prompts is empty: name prompts to draw, "
                "or set samples.every = 0."
            )
        self.samples.looked_for(
            self.target.words() if isinstance(self.target, FineTuneConfig) else ()
        )
        return self

    @model_validator(mode="after")
    def _compare_uncompiled(self) -> "RunConfig":
        for key in ("preserve_weight", "preference_beta"):
            if getattr(self.target, key, 0.0) and self.train.compile:
                raise ValueError(
                    f"target.{key} takes what is trained out and puts it back in every step, which "
                    "train.compile = true would compile anew: set one of the two off."
                )
        return self

    @model_validator(mode="after")
    def _read_attention_where_it_can_be(self) -> "RunConfig":
        if not getattr(self.target, "attention_weight", 0.0):
            return self
        for key, on in (
            (
                "target.gradient_checkpointing",
                getattr(self.target, "gradient_checkpointing", False),
            ),
            ("train.compile", self.train.compile),
        ):
            if on:
                raise ValueError(
                    f"target.attention_weight reads attention maps in the pass that is trained, "
                    f"and {key} = true makes that pass another: set one of the two off."
                )
        return self

    @model_validator(mode="after")
    def _fit_optimizer_to_rate_and_average(self) -> "RunConfig":
        check_fit(self.optimizer, self.rate, self.ema)
        return self

    @model_validator(mode="after")
    def _hold_out_what_is_measured(self) -> "RunConfig":
        check_can_be_measured(self.validation, self.target.kind, self.data)
        return self


HARMLESS = (
    "model",
    "target.vae",
    "target.unet",
    "target.text_encoder",
    "target.recogniser",
    "target.base",
    "data.folder",
    "data.subsets.*.folder",
    "data.subsets.*.tars*",
    "data.subsets.*.dataset",
    "data.subsets.*.kohya",
    "data.subsets.*.masks",
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
"""Keys, as patterns, that may change when a run is resumed; every other would make it another run.

Paths may move: what lies behind them is kept in the checkpoint, see `train.loop.identity`.
"""


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML and apply overrides such as "train.steps=100", values in TOML or bare words.

    Raises ArgumentError that names the key, as typed, and the nearest known one.
    """
    if path.is_dir():
        raise ArgumentError(
            f"{path} is a folder, expected a training config. For the pictures in it one is "
            f"written with: t2i train --init lora {quote(str(path))}"
        )
    tree = read_toml(path, CONFIG("training config"))
    for override in overrides:
        _override(tree, override)
    if isinstance(data := tree.setdefault("data", {}), dict):
        data.setdefault("kind", "scenes")
    settle_paths(tree, path.resolve().parent)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ArgumentError(f"{path}: {explain(error, tree)}") from error
    for complaint in taken_otherwise(tree, config.model_dump()):
        raise ArgumentError(f"{path}: {complaint}")
    return config


EXPECTED = {
    "int": "a whole number, as in 8",
    "float": "a number, as in 0.5",
    "bool": "true or false",
    "string": 'text in quotes, as in "a cup"',
    "path": 'a path in quotes, as in "my-pictures"',
    "tuple": "a list in brackets",
    "model": "a table",
    "dict": "a table",
}
"""What pydantic's types of errors begin with -> what to write in the TOML."""


def taken_otherwise(given: Any, taken: Any, key: str = "") -> Iterator[str]:
    """A complaint for each value that pydantic took for one of another type, as 1 for true."""
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        for name in given.keys() & taken.keys():
            yield from taken_otherwise(given[name], taken[name], f"{key}.{name}".strip("."))
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        for number, (one, other) in enumerate(zip(given, taken, strict=False)):
            yield from taken_otherwise(one, other, f"{key}.{number}")
    elif isinstance(taken, int | float) and (
        isinstance(given, str) or isinstance(given, bool) != isinstance(taken, bool)
    ):
        yield f"{key}: expected {EXPECTED[type(taken).__name__]}, got {shown(given)}."


def shown(value: Any) -> str:
    """As it stands in the TOML, on one line; empty for what takes more, such as a table."""
    many = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, Mapping | list | tuple | BaseModel) for one in many):
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)


def explain(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """The first complaint in the user's terms."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if not str(part).startswith("constrained-")]
    # Kinds and methods, which pydantic names there and the user's file does not.
    if place[:1] in (["target"], ["data"]):
        del place[1:2]
    if place[:2] == ["target", "parts"]:
        del place[3:4]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        return f"Unknown key {key!r}. {nearest(place[-1], _keys_beside(place))}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing; add it."
    message, given = str(first["msg"]).removeprefix("Value error, "), shown(first["input"])
    kind, _, why = first["type"].partition("_")
    if kind in EXPECTED and why in ("type", "parsing", "from_float", "attributes_type"):
        return f"{key}: expected {EXPECTED[kind]}, got {given or 'a table'}."
    if first["type"] == "union_tag_invalid":
        name, known = first["ctx"]["discriminator"].strip("'"), first["ctx"]["expected_tags"]
        return f"{key}.{name}: expected one of {known}, got {first['ctx']['tag']!r}."
    if not key:
        return message
    return f"{key}: {message} (given: {given})" if given else f"{key}: {message}"


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Where two dumped configs differ and must not, such as "train.batch_size: 32 -> 64"."""
    flat_before, flat_after = flat(before), flat(after)
    return [
        f"{key}: {flat_before.get(key)} -> {flat_after.get(key)}"
        for key in sorted({*flat_before, *flat_after})
        if flat_before.get(key) != flat_after.get(key)
        and not any(fnmatchcase(key, pattern) for pattern in HARMLESS)
    ]


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(
            f"Got the override {text!r}, expected KEY=VALUE such as train.steps=100."
        )
    *tables, name = key.strip().split(".")
    at: Any = tree
    for depth, table in enumerate(tables):
        if isinstance(at, list):
            at = at[_number(table, at, tables[:depth], text)]
        else:
            at = at.setdefault(table, {})
        if not isinstance(at, dict | list):
            raise ArgumentError(f"Override {text!r}: {table!r} is a value, not a table.")
    place = _number(name, at, tables, text) if isinstance(at, list) else name
    try:
        at[place] = parse_toml(f"value = {value}")["value"]
    except ValueError:
        at[place] = value.strip()


def _number(entry: str, entries: list[Any], tables: Sequence[str], text: str) -> int:
    """Which entry of the list an override means."""
    if entry.isdecimal() and int(entry) < len(entries):
        return int(entry)
    key = ".".join(tables)
    there = f"{key}.0" if len(entries) == 1 else f"{key}.0 to {key}.{len(entries) - 1}"
    raise ArgumentError(
        f"Override {text!r}: {key!r} is a list and has no entry {entry!r}; expected one of those "
        f"it has: {there if entries else 'none, it is empty'}."
    )


def _keys_beside(place: Sequence[str]) -> list[str]:
    """The keys that would have been known where an unknown one was given."""
    models: set[type[BaseModel]] = {RunConfig}
    for part in place[:-1]:
        if not part.isdigit():
            fields = [model.model_fields.get(part) for model in models]
            known = [field.annotation for field in fields if field is not None]
            models = {model for annotation in known for model in tables_of(annotation)}
    return sorted({key for model in models for key in model.model_fields})


def tables_of(annotation: Any) -> set[type[BaseModel]]:
    """The models that a type is made of: of a union, of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in tables_of(part)}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted names, those of a list of tables by its numbers."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
