"""Part "generation" of the suite: does the model draw the caption, as the recogniser judges."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from t2i.conditioning.guidance_registry import parse_guidance
from t2i.denoiser.schedulers import build_scheduler, find_sampler, rebuild_scheduler_with_settings
from t2i.evaluate.denoiser_row_counts import recording_denoiser_row_counts
from t2i.evaluate.generation.chapters import GenerationResults, build_chapters
from t2i.evaluate.generation.judge import (
    CaptionStatement,
    build_caption_statement,
    judge_by_other_captions,
    judge_by_statement,
)
from t2i.evaluate.generation.records import (
    DECIMALS,
    BatchRecord,
    PictureRecord,
    SweepPoint,
    build_recognised_object_records,
)
from t2i.evaluate.generation.soft_tifa import score_atoms
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import SceneSplitConfig, build_scene_splits
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.randomness import derive_generator
from t2i.scenes.scenes import SceneDataset
from t2i.terminal import plural

Split = Literal["seen", "held_out", "sweep"]
SPLITS: tuple[Split, ...] = ("seen", "held_out", "sweep")


class GenerationConfig(BaseModel):
    """Configuration of the generation part: scenes, and sampling settings to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: SceneSplitConfig
    """Combinations of objects and colours that training showed, in scenes that it did not."""
    held_out: SceneSplitConfig
    """Each shows a combination that training never did."""
    sweep: SceneSplitConfig
    """Other scenes, for trying out how to sample: what is chosen by them is judged elsewhere."""
    guidance_scales: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = ()
    samplers: tuple[str, ...] = ()
    """As `t2i generate --sampler` takes them, in the place of the model's own."""
    methods: tuple[str, ...] = ()
    """As `t2i generate --method` takes them, at the model's own scale."""
    batch: int = Field(8, ge=1, le=64)
    """Pictures of a unit, drawn together."""

    @field_validator("samplers")
    @classmethod
    def _know_samplers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            find_sampler(name)
        return names

    @field_validator("methods")
    @classmethod
    def _know_methods(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            parse_guidance(text, 1.0)
        return texts


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Sampling settings that a sweep compares: steps, guidance scale, sampler, guidance method.

    sampler : None is the model's own
    guidance_method : None is classifier-free guidance
    """

    steps: int
    guidance_scale: float
    sampler: str | None = None
    guidance_method: str | None = None

    def __str__(self) -> str:
        named = [f"sampler={self.sampler}"] * (self.sampler is not None)
        named += [f"method={self.guidance_method}"] * (self.guidance_method is not None)
        return ",".join([f"steps={self.steps}", f"guidance={self.guidance_scale:g}", *named])

    def get_swept_value_as_text_and_number(self, name: str) -> tuple[str, float]:
        """Return the value of the sampling setting that the sweep `name` varies, as (text, number),
        for labels and plots.
        """
        return {
            "guidance": (f"{self.guidance_scale:g}", self.guidance_scale),
            "steps": (str(self.steps), float(self.steps)),
            "samplers": (self.sampler or "the model's own", 0.0),
            "methods": (self.guidance_method or "classifier-free", 0.0),
        }[name]


@dataclass(frozen=True, slots=True)
class GenerationUnit:
    """Batch of scenes to generate with some sampling settings, or to render (settings None).

    scene_numbers : of the scenes in their split
    """

    split: Split
    settings: SamplingSettings | None
    scene_numbers: range

    @property
    def key(self) -> str:
        """Key in records.jsonl of a batch of scenes to generate."""
        how = "real" if self.settings is None else f"drawn/{self.settings}"
        return f"{self.split}/{how}/{self.scene_numbers.start}-{self.scene_numbers[-1]}"


class GenerationPart:
    """Part of the suite that measures how well generated pictures follow their captions."""

    name = "generation"

    def __init__(self, config: GenerationConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context
        self._default_scheduler = context.pipe.scheduler
        self.default_settings = SamplingSettings(context.steps, context.guidance_scale)
        self.units_by_key = {unit.key: unit for unit in self._list_units()}

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of all batches of pictures, in the order of measurement."""
        return [*self.units_by_key]

    def measure_unit(self, unit: str) -> Record:
        """Generate or render a batch of pictures, judge them and return the record."""
        batch = self.units_by_key[unit]
        statements = self.caption_statements_by_split[batch.split]
        texts = [statements[number].text for number in batch.scene_numbers]
        begun = time.perf_counter()
        with recording_denoiser_row_counts(self.context.pipe.unet) as passes:
            pictures = (
                self._render(batch)
                if batch.settings is None
                else self._draw(batch, batch.settings, texts)
            )
        seconds = time.perf_counter() - begun

        fits = self._score_captions(batch, pictures)
        judged = []
        seen_in_all = self.context.recogniser.recognise(pictures)
        for number, picture, seen, (fit, fit_of_another) in zip(
            batch.scene_numbers, pictures, seen_in_all, fits, strict=True
        ):
            name = f"generation/{batch.split}/{number:04d}-{batch.settings}"
            judged.append(
                PictureRecord(
                    number=number,
                    caption=statements[number].text,
                    objects=build_recognised_object_records(seen),
                    background=seen.background,
                    right=judge_by_statement(statements[number], seen),
                    right_by_another=judge_by_other_captions(statements, number, seen),
                    fit=fit,
                    fit_of_another=fit_of_another,
                    features=[round(float(value), DECIMALS) for value in seen.mean_features],
                    atoms=[round(one, DECIMALS) for one in score_atoms(statements[number], seen)],
                    file=None
                    if batch.settings is None
                    else self.context.save_picture(name, picture),
                )
            )
        record = BatchRecord(pictures=judged, seconds=round(seconds, 4), passes=sum(passes))
        return record.model_dump(mode="json")

    def _score_captions(
        self, unit: GenerationUnit, pictures: Sequence[Image.Image]
    ) -> list[tuple[float | None, float | None]]:
        """Return the score of each picture's caption, and of the next scene's caption."""
        if self.context.caption_matcher is None:
            return [(None, None)] * len(pictures)
        texts = [statement.text for statement in self.caption_statements_by_split[unit.split]]
        own = [texts[number] for number in unit.scene_numbers]
        following = [texts[(number + 1) % len(texts)] for number in unit.scene_numbers]
        scores = [
            self.context.caption_matcher.compute_paired_similarities(pictures, captions)
            for captions in (own, following)
        ]
        return [
            (round(a, DECIMALS), round(b, DECIMALS))
            for a, b in zip(*(s.tolist() for s in scores), strict=True)
        ]

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapters of this part from the records of all units, by key."""

        def run(
            split: Split, settings: SamplingSettings | None, label: str = "", value: float = 0.0
        ) -> SweepPoint:
            keys = [
                w.key
                for w in self.units_by_key.values()
                if w.split == split and w.settings == settings
            ]
            return SweepPoint(
                label, value, [BatchRecord.model_validate(records[key]) for key in keys]
            )

        splits = [split for split in self.scenes_by_split if split != "sweep"]
        return build_chapters(
            GenerationResults(
                real={split: run(split, None) for split in splits},
                drawn={split: run(split, self.default_settings) for split in splits},
                sweeps={
                    name: [
                        run("sweep", way, *way.get_swept_value_as_text_and_number(name))
                        for way in ways
                    ]
                    for name, ways in self.settings_by_sweep.items()
                },
                default_labels={
                    name: self.default_settings.get_swept_value_as_text_and_number(name)[0]
                    for name in self.settings_by_sweep
                },
                sampling_text=f"{plural(self.default_settings.steps, 'step')}, guidance scale "
                f"{self.default_settings.guidance_scale:g}",
            )
        )

    @cached_property
    def scenes_by_split(self) -> dict[Split, SceneDataset]:
        """Data sets of the scenes whose captions the model generates pictures of, by split."""
        return build_scene_splits(
            self.context, {name: getattr(self.config, name) for name in SPLITS}
        )

    @cached_property
    def caption_statements_by_split(self) -> dict[Split, list[CaptionStatement]]:
        """Statements of each scene's caption, by which its picture is judged, by split."""
        return {
            split: [
                build_caption_statement(scenes.compose_layout(number))
                for number in range(len(scenes))
            ]
            for split, scenes in self.scenes_by_split.items()
        }

    @cached_property
    def settings_by_sweep(self) -> dict[str, list[SamplingSettings]]:
        """Sampling settings of each sweep, by the name of the setting that it varies."""
        usual, config = self.default_settings, self.config
        scales = sorted({*config.guidance_scales, usual.guidance_scale})
        steps = sorted({*config.steps, usual.steps})
        several: dict[str, list[SamplingSettings]] = {
            "guidance": [SamplingSettings(usual.steps, scale) for scale in scales],
            "steps": [SamplingSettings(count, usual.guidance_scale) for count in steps],
            "samplers": [usual, *(replace(usual, sampler=s) for s in config.samplers)],
            "methods": [usual, *(replace(usual, guidance_method=m) for m in config.methods)],
        }
        return {name: ways for name, ways in several.items() if len(ways) > 1}

    def _list_units(self) -> Sequence[GenerationUnit]:
        ways: list[tuple[Split, SamplingSettings | None]] = []
        for split in self.scenes_by_split:
            if split != "sweep":
                ways += [(split, None), (split, self.default_settings)]
        ways += [("sweep", way) for several in self.settings_by_sweep.values() for way in several]
        return [
            GenerationUnit(
                split,
                way,
                range(first, min(first + self.config.batch, len(self.scenes_by_split[split]))),
            )
            for split, way in dict.fromkeys(ways)
            for first in range(0, len(self.scenes_by_split[split]), self.config.batch)
        ]

    def _render(self, unit: GenerationUnit) -> list[Image.Image]:
        scenes = self.scenes_by_split[unit.split]
        return [
            Image.fromarray(scenes.render_scene(number).pixels) for number in unit.scene_numbers
        ]

    def _draw(
        self, unit: GenerationUnit, settings: SamplingSettings, texts: list[str]
    ) -> list[Image.Image]:
        pipe, seed = self.context.pipe, self.scenes_by_split[unit.split].config.seed
        sampler, method = settings.sampler, settings.guidance_method
        noises = [
            derive_generator(seed, unit.split, number, "noise") for number in unit.scene_numbers
        ]
        try:
            # A fresh one each time, so that nothing passes from one unit to the next.
            own = self._default_scheduler
            pipe.scheduler = (
                build_scheduler(sampler, own.config)
                if sampler
                else rebuild_scheduler_with_settings(own)
            )
            drawn = pipe(
                texts,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                guidance=parse_guidance(method, settings.guidance_scale) if method else None,
                generator=noises,
                return_dict=False,
            )
        finally:
            pipe.scheduler = self._default_scheduler
        pictures: list[Image.Image] = drawn[0]
        return pictures
