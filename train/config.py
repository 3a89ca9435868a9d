"""A run's whole configuration: one TOML, overrides, nothing unknown."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2i.errors import ArgumentError, nearest
from train.data.kinds import DataConfig
from train.data.scenes import ScenesConfig
from train.ema import EMAConfig
from train.export import ExportConfig
from train.objective import ObjectiveConfig
from train.rate import RateConfig
from train.samples import SamplesConfig
from train.targets.agreement import AgreementConfig
from train.targets.autoencoder import AutoencoderConfig
from train.targets.denoiser import DenoiserConfig
from train.targets.recogniser import RecogniserConfig


class LoopConfig(BaseModel):
    """The loop itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    """Optimizer steps in all."""
    batch_size: int = Field(ge=1)
    """Pictures per step, over all processes and accumulation parts."""
    accumulation: int = Field(1, ge=1)
    """Parts in which each process computes its share of a batch."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """What autocast computes in; weights and averages stay float32."""
    channels_last: bool = False
    """Lay the weights of convolutions out channels last: the same model, most often faster."""
    device: Literal["auto", "cpu"] = "auto"
    workers: int = Field(0, ge=0)
    """Processes that read data ahead."""
    log_every: int = Field(10, ge=1)
    tensorboard: bool = False
    checkpoint_every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    """Checkpoints that stay."""


Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(BaseModel):
    """AdamW."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    eps: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""


TargetConfig = AutoencoderConfig | DenoiserConfig | RecogniserConfig | AgreementConfig
OF_A_MODEL = ("autoencoder", "denoiser")
FOLDERS = ("vae", "unet", "text_encoder", "recogniser")
"""Keys of a target that name what it starts from."""


class RunConfig(BaseModel):
    """Everything a run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    """The model's TOML, relative to this one, for the parts of one."""
    seed: int = Field(0, ge=0)
    target: TargetConfig = Field(discriminator="kind")
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = Field(ScenesConfig(), discriminator="kind")
    train: LoopConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    rate: RateConfig = RateConfig()
    ema: EMAConfig = EMAConfig()
    samples: SamplesConfig = SamplesConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _fit_target_to_model_and_data(self) -> "RunConfig":
        kind = self.target.kind
        if kind in OF_A_MODEL and self.model is None:
            raise ValueError("The key 'model' is missing; add it.")
        if kind not in OF_A_MODEL and self.model is not None:
            raise ValueError(f"target.kind = {kind!r} is no part of a model: drop the key 'model'.")
        wanted = "compositions" if kind == "recogniser" else "scenes"
        if self.data.kind != wanted:
            raise ValueError(
                f"target.kind = {kind!r} is trained on {wanted!r}, but data.kind = "
                f"{self.data.kind!r}: set data.kind = {wanted!r}."
            )
        return self

    @model_validator(mode="after")
    def _refuse_an_empty_sheet(self) -> "RunConfig":
        if self.samples.every and not self.samples.prompts and self.target.kind == "denoiser":
            raise ValueError(
                "samples.every is set, but samples.prompts is empty: name prompts to draw, "
                "or set samples.every = 0."
            )
        return self


HARMLESS = (
    "model",
    "target.vae",
    "target.unet",
    "target.text_encoder",
    "target.recogniser",
    "train.steps",
    "train.accumulation",
    "train.device",
    "train.workers",
    "train.log_every",
    "train.tensorboard",
    "train.checkpoint_every",
    "train.keep",
    "samples",
    "export",
)
"""Keys, and tables, that may change when a run is resumed; every other would make it another run.

Paths may move: what lies behind them is kept in the checkpoint, see `train.loop.identity`.
"""


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML and apply overrides such as "train.steps=100", values in TOML or bare words.

    Raises ArgumentError that names the key, as typed, and the nearest known one.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise ArgumentError(f"Cannot read the training config {path}: {error}.") from error
    for override in overrides:
        _override(tree, override)
    base = path.resolve().parent
    if isinstance(tree.get("model"), str):
        tree["model"] = base / tree["model"]
    if isinstance(data := tree.setdefault("data", {}), dict):
        data.setdefault("kind", "scenes")
    if isinstance(target := tree.get("target"), dict):
        for part in FOLDERS:
            if isinstance(target.get(part), str):
                target[part] = base / target[part]
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ArgumentError(f"{path}: {explain(error, tree)}") from error


def explain(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """The first complaint in the user's terms."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] in (["target"], ["data"]):
        del place[1:2]  # the kind, which pydantic names there and the user's file does not
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        return f"Unknown key {key!r}. {nearest(place[-1], _keys_beside(place))}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing; add it."
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{key}: {message} (given: {first['input']!r})" if key else message


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Where two dumped configs differ and must not, such as "train.batch_size: 32 -> 64"."""
    flat_before, flat_after = flat(before), flat(after)
    return [
        f"{key}: {flat_before.get(key)} -> {flat_after.get(key)}"
        for key in sorted({*flat_before, *flat_after})
        if flat_before.get(key) != flat_after.get(key)
        and not any(key == name or key.startswith(name + ".") for name in HARMLESS)
    ]


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(
            f"Got the override {text!r}, expected KEY=VALUE such as train.steps=100."
        )
    *tables, name = key.strip().split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ArgumentError(f"Override {text!r}: {table!r} is a value, not a table.")
    try:
        tree[name] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        tree[name] = value.strip()


def _keys_beside(place: list[str]) -> list[str]:
    """The keys that would have been known where an unknown one was given."""
    models: list[Any] = [RunConfig]
    for part in place[:-1]:
        fields = [model.model_fields.get(part) for model in models]
        annotations = [field.annotation for field in fields if field is not None]
        models = [kind for a in annotations for kind in getattr(a, "__args__", (a,))]
    return sorted({key for model in models for key in getattr(model, "model_fields", {})})


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
