"""Measurement of the candidates for presets: caption by caption, all of them in turn."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipelines.presets import using_preset
from t2i.denoiser.schedulers import rebuild_scheduler_with_settings
from t2i.evaluate.denoiser_row_counts import recording_denoiser_row_counts
from t2i.evaluate.generation.judge import (
    CaptionStatement,
    build_caption_statement,
    judge_by_statement,
)
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import SceneSplitConfig, build_scene_splits
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.evaluate.tuning.candidates import Candidate
from t2i.randomness import derive_generator

SCENE_SEED = 77
"""Seed of the scenes, which no other part of the benchmark uses."""
DECIMALS = 5


class CandidateRecord(BaseModel):
    """Record of one caption's image with the settings of a candidate.

    seconds : from prompt to pixels
    rows : that the denoiser was called with, a cost that does not depend on the machine
    distance : root mean square distance to the image of the plain defaults, of pixels from 0 to 1
    right : criterion -> results, see t2i.evaluate.generation.judge; {} where nothing judges
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    rows: int
    distance: float
    right: dict[str, list[bool]] = {}


class CaptionRecord(BaseModel):
    """Record of one caption, drawn with every candidate from the same noise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caption: str
    images: dict[str, CandidateRecord]


class TuningPart:
    """Part of a measurement whose units are captions: each is drawn with all candidates in turn, in
    an order that alternates, so that what slows the machine slows all of them.
    """

    name = "tuning"

    def __init__(
        self,
        candidates: Sequence[Candidate],
        context: EvaluationContext,
        num_captions: int,
        lora_folder: Path,
        *,
        judges: bool,
    ) -> None:
        """Prepare the measurement of the candidates, of which the first is the plain defaults.

        lora_folder : below which the LoRAs of the candidates are
        judges : whether the recogniser knows the things that the model draws
        """
        self.candidates, self.context = candidates, context
        self.num_captions, self.lora_folder, self.judges = num_captions, lora_folder, judges
        self._is_warm = False

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of all captions, in the order of measurement."""
        return [str(number) for number in range(len(self.statements))]

    @cached_property
    def statements(self) -> list[CaptionStatement]:
        """Statements of the captions, by which images are judged."""
        config = SceneSplitConfig(seed=SCENE_SEED, count=self.num_captions)
        scenes = build_scene_splits(self.context, {"tuning": config})["tuning"]
        layouts = (scenes.compose_layout(number) for number in range(len(scenes)))
        return [build_caption_statement(layout) for layout in layouts]

    def measure_unit(self, unit: str) -> Record:
        """Draw a caption with every candidate and return the record."""
        number = int(unit)
        statement = self.statements[number]
        if not self._is_warm:  # the first run of a model allocates what later ones reuse
            for candidate in self.candidates:
                self._draw(candidate, statement.text, number)
            self._is_warm = True
        order = self.candidates[:: 1 if number % 2 == 0 else -1]
        drawn = {one.name: self._draw(one, statement.text, number) for one in order}
        exact = to_unit_pixels(drawn[self.candidates[0].name][0])
        judged: list[dict[str, list[bool]]] = [{} for _ in self.candidates]
        if self.judges:
            images = [drawn[one.name][0] for one in self.candidates]
            seen = self.context.recogniser.recognise(images)
            judged = [judge_by_statement(statement, one) for one in seen]
        images_by_name = {}
        for one, right in zip(self.candidates, judged, strict=True):
            image, seconds, rows = drawn[one.name]
            apart = float(np.sqrt(np.mean((to_unit_pixels(image) - exact) ** 2)))
            images_by_name[one.name] = CandidateRecord(
                seconds=round(seconds, DECIMALS),
                rows=rows,
                distance=round(apart, DECIMALS),
                right=right,
            )
        record = CaptionRecord(caption=statement.text, images=images_by_name)
        return record.model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Return no chapters: the result is a table and the presets."""
        return []

    def _draw(self, candidate: Candidate, text: str, number: int) -> tuple[Image.Image, float, int]:
        """Return the image of a caption, the seconds it took, and the rows of denoiser calls."""
        pipe: Any = self.context.pipe
        own = pipe.scheduler
        # A fresh one each time, so that nothing passes from one run to the next.
        pipe.scheduler = rebuild_scheduler_with_settings(own)
        try:
            with using_preset(pipe, candidate.preset, self.lora_folder) as arguments:
                noise = derive_generator(SCENE_SEED, "tuning", number, "noise")
                with recording_denoiser_row_counts(pipe.unet) as rows:
                    begun = time.perf_counter()
                    drawn = pipe(text, generator=noise, return_dict=False, **arguments)
                    seconds = time.perf_counter() - begun
        finally:
            pipe.scheduler = own
        return drawn[0][0], seconds, sum(rows)


def to_unit_pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the pixels of an image as an array (H, W, 3) from 0 to 1."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255
