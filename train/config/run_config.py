"""The configuration of a training run: one table per component, unknown keys refused."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from t2i.scenes.scenes import SceneDatasetConfig
from train.cache.config import CacheConfig
from train.data.class_picture_config import PriorPreservationConfig, check_prior_preservation_config
from train.data.pictures_config import PictureDatasetConfig
from train.data.registry import DataConfig
from train.export import ExportConfig
from train.loop_config import LoopConfig
from train.objective.objective import ObjectiveConfig
from train.optim.ema import EMAConfig
from train.optim.learning_rate import LearningRateScheduleConfig
from train.optim.optimizer import OptimizerConfig, check_schedulefree_config
from train.reporting.sample_sheets import SamplesConfig
from train.targets.autoencoder import AutoencoderTargetConfig
from train.targets.caption_matcher import CaptionMatcherTargetConfig
from train.targets.control_network import (
    ControlNetTargetConfig,
    ControlTargetConfig,
    T2IAdapterTargetConfig,
)
from train.targets.denoiser import ScratchDenoiserTargetConfig
from train.targets.finetune import FineTuneTargetConfig
from train.targets.recogniser import RecogniserTargetConfig
from train.validation import ValidationConfig, check_validation_possible

TargetConfig = (
    AutoencoderTargetConfig
    | ScratchDenoiserTargetConfig
    | FineTuneTargetConfig
    | ControlNetTargetConfig
    | T2IAdapterTargetConfig
    | RecogniserTargetConfig
    | CaptionMatcherTargetConfig
)
TargetWithBaseConfig = FineTuneTargetConfig | ControlTargetConfig
"""Configurations of targets that begin with a finished model, whose encoders' output is cached."""
MODEL_PART_KINDS = ("autoencoder", "denoiser")
"""Kinds of target that are one part of a model, which the key `model` describes."""
DATA_KINDS_BY_TARGET = {
    "autoencoder": ("scenes", "pictures"),
    "denoiser": ("scenes", "pictures"),
    "finetune": ("pictures", "scenes"),
    "controlnet": ("pictures", "scenes"),
    "t2i-adapter": ("pictures", "scenes"),
    "recogniser": ("compositions",),
    "agreement": ("scenes",),
}
"""Kind of target -> kinds of data that it can be trained on, the usual one first."""
NAMING_HINTS = "hints, hint_column or hint in every subset, or data.hint for all, as to 'canny'"
"""Keys that name hints of pictures."""


class RunConfig(BaseModel):
    """Configuration of a training run: everything that it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    """The model's TOML, relative to this one, for the parts of one."""
    seed: int = Field(0, ge=0)
    target: TargetConfig = Field(discriminator="kind")
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = Field(SceneDatasetConfig(), discriminator="kind")
    prior: PriorPreservationConfig | None = None
    """DreamBooth's class pictures, drawn before the first step where they are missing."""
    train: LoopConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    rate: LearningRateScheduleConfig = LearningRateScheduleConfig()
    ema: EMAConfig = EMAConfig()
    cache: CacheConfig = CacheConfig()
    samples: SamplesConfig = SamplesConfig()
    validation: ValidationConfig = ValidationConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _fit_target_to_model_and_data(self) -> "RunConfig":
        kind = self.target.kind
        if kind in MODEL_PART_KINDS and self.model is None:
            raise ValueError("The key 'model' is missing; add it.")
        if kind not in MODEL_PART_KINDS and self.model is not None:
            raise ValueError(f"target.kind = {kind!r} is no part of a model: drop the key 'model'.")
        if self.data.kind not in DATA_KINDS_BY_TARGET[kind]:
            wanted = " or ".join(map(repr, DATA_KINDS_BY_TARGET[kind]))
            raise ValueError(
                f"target.kind = {kind!r} is trained on {wanted}, but data.kind = "
                f"{self.data.kind!r}: set data.kind = {DATA_KINDS_BY_TARGET[kind][0]!r}."
            )
        check_prior_preservation_config(self.prior, kind, self.data.kind)
        return self

    @property
    def has_sample_sheets(self) -> bool:
        """True if the run makes sample sheets: the target needs no prompts for them, or has
        some.
        """
        return bool(self.samples.prompts) or self.target.kind not in ("denoiser", "finetune")

    @model_validator(mode="after")
    def _refuse_an_empty_sheet(self) -> "RunConfig":
        if self.samples.every and not self.has_sample_sheets:
            raise ValueError(
                "samples.every is set, but samples.prompts is empty: name prompts to draw, "
                "or set samples.every = 0."
            )
        if isinstance(self.target, ControlTargetConfig) and not self.samples.prompts:
            return self  # the words are looked for in the captions
        self.samples.choose_heat_map_words(
            self.target.list_new_word_spellings()
            if isinstance(self.target, FineTuneTargetConfig)
            else ()
        )
        return self

    @model_validator(mode="after")
    def _fit_hints_to_target(self) -> "RunConfig":
        check_control_hints_fit_target(self.target, self.data, self.samples)
        return self

    @model_validator(mode="after")
    def _compile_what_is_trained(self) -> "RunConfig":
        if isinstance(self.target, ControlTargetConfig) and self.train.compile:
            raise ValueError(
                f"train.compile compiles the denoiser, and target.kind = {self.target.kind!r} "
                "trains a network beside it: set train.compile = false."
            )
        return self

    @model_validator(mode="after")
    def _compare_uncompiled(self) -> "RunConfig":
        for key in ("preserve_weight", "preference_beta", "consistency_steps"):
            if getattr(self.target, key, 0) and self.train.compile:
                raise ValueError(
                    f"target.{key} takes what is trained out and puts it back in every step, which "
                    "train.compile = true would compile anew: set one of the two off."
                )
        return self

    @model_validator(mode="after")
    def _draw_few_steps_where_they_are_learned(self) -> "RunConfig":
        if isinstance(self.target, FineTuneTargetConfig) and self.target.consistency_steps:
            check_consistency_settings(self.target, self.objective, self.samples)
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
        check_schedulefree_config(self.optimizer, self.rate, self.ema)
        return self

    @model_validator(mode="after")
    def _hold_out_what_is_measured(self) -> "RunConfig":
        check_validation_possible(self.validation, self.target.kind, self.data)
        return self


def check_control_hints_fit_target(
    target: TargetConfig, data: DataConfig, samples: SamplesConfig
) -> None:
    """Raise ValueError where a control is trained on pictures without control hints, another target
    on pictures with hints, or sample prompts lack hints.
    """
    wanted = isinstance(target, ControlTargetConfig)
    hinted = [getattr(data, "hint", None) is not None]
    if isinstance(data, PictureDatasetConfig) and data.subsets:
        hinted = [
            data.hint is not None or subset.hint is not None or subset.has_hint_folder_or_column
            for subset in data.subsets
        ]
    if wanted and not all(hinted):
        named = 'data.hint, as to "segments"' if data.kind == "scenes" else NAMING_HINTS
        raise ValueError(
            f"target.kind = {target.kind!r} learns to read a hint beside each picture, and there "
            f"are none: set {named}."
        )
    if any(hinted) and not wanted:
        raise ValueError(
            f"data has hints, which target.kind = {target.kind!r} does not read: leave them out, "
            "or set target.kind = 'controlnet'."
        )
    if wanted and len(samples.prompts) != len(samples.hints):
        raise ValueError(
            f"Got {len(samples.prompts)} samples.prompts and {len(samples.hints)} samples.hints: "
            "give each prompt a hint, or leave out both to draw captions and hints of the data."
        )
    if samples.hints and not wanted:
        raise ValueError(
            f"samples.hints is set, and target.kind = {target.kind!r} reads none: leave them out."
        )


def check_consistency_settings(
    target: FineTuneTargetConfig, objective: ObjectiveConfig, samples: SamplesConfig
) -> None:
    """Raise ValueError for settings that consistency distillation does not use, and for sample
    sheets that would be drawn as those of other fine-tunes.
    """
    for key, unused in (("density", "uniform"), ("weight", "none")):
        if getattr(objective, key) != unused:
            raise ValueError(
                f"objective.{key} = {getattr(objective, key)!r} with target.consistency_steps, "
                "which learns the steps of a sampler, each alike: leave it out."
            )
    if not samples.prompts:
        return
    if not {"steps", "guidance_scale"} <= samples.model_fields_set:
        raise ValueError(
            "target.consistency_steps trains for few steps, without guidance: set samples.steps, "
            "as to 4, and samples.guidance_scale, to 1.0 for all but UNets that read it "
            "(time_cond_proj_dim)."
        )
    if samples.steps > target.consistency_steps:
        raise ValueError(
            f"samples.steps = {samples.steps} with target.consistency_steps = "
            f"{target.consistency_steps}: no more steps than are learned can be drawn."
        )
