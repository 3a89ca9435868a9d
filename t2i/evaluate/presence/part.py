"""Part "presence": is the thing that a word names in the picture, as the word's heat map has it.

It measures the pictures that `HeatMaps.found` is fitted to and tested on.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from t2i.attention import HeatMaps, attend
from t2i.attention.probes.heat_maps import Convention
from t2i.attention.probes.presence import PresenceFit, measure_presence_features
from t2i.denoiser.schedulers import rebuild_scheduler_with_settings
from t2i.evaluate.inspection.scene_heat_maps import find_mention_token_span
from t2i.evaluate.presence.chapters import build_chapters
from t2i.evaluate.presence.fitting import fit_presence
from t2i.evaluate.presence.records import (
    CaptionBatchRecord,
    CaptionPresenceRecord,
    PresenceSamples,
    WordRecord,
    collect_samples,
)
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import SceneSplitConfig, build_scene_splits
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.randomness import derive_generator
from t2i.scenes.layout import SceneLayout
from t2i.scenes.scenes import SceneDataset

Split = Literal["fit", "seen", "held_out"]
SPLITS: tuple[Split, ...] = ("fit", "seen", "held_out")
CONVENTIONS: tuple[Convention, ...] = ("default", "refined")
"""Conventions of heat maps that are fitted; of others the scale depends on the number of steps or
of tokens."""


class HeatMapPresenceConfig(BaseModel):
    """Configuration of the part: scenes to fit to, and others to test on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: SceneSplitConfig = SceneSplitConfig(seed=81, count=200)
    seen: SceneSplitConfig = SceneSplitConfig(seed=82, count=100)
    held_out: SceneSplitConfig = SceneSplitConfig(seed=83, count=100)
    batch: int = Field(4, ge=1, le=64)
    """Pictures of a unit, drawn together."""


class HeatMapPresencePart:
    """Part that draws captions and compares the heat maps of their objects' words with what the
    recogniser finds in the picture.
    """

    name = "presence"

    def __init__(self, config: HeatMapPresenceConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context

    @cached_property
    def scenes_by_split(self) -> dict[Split, SceneDataset]:
        """Scenes whose captions are drawn, by split; all but "fit" are for testing."""
        return build_scene_splits(
            self.context, {name: getattr(self.config, name) for name in SPLITS}
        )

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of all batches of pictures, in the order of measurement."""
        return [
            f"{split}/{first}"
            for split, scenes in self.scenes_by_split.items()
            for first in range(0, len(scenes), self.config.batch)
        ]

    def measure_unit(self, unit: str) -> Record:
        """Draw a batch of captions; return the features of their words' heat maps, and which
        objects the recogniser found.
        """
        split, first = unit.split("/")
        scenes = self.scenes_by_split[split]  # type: ignore[index]  # a unit's
        numbers = range(int(first), min(int(first) + self.config.batch, len(scenes)))
        layouts = [scenes.compose_layout(number) for number in numbers]
        pipe = self.context.pipe
        pipe.scheduler = rebuild_scheduler_with_settings(pipe.scheduler)
        with attend(pipe) as attn:
            maps = [
                {
                    convention: attn.probe(*words, prompt=number, convention=convention)
                    for convention in CONVENTIONS
                }
                for number, words in enumerate(map(self._find_words, layouts))
            ]
            pictures = pipe(
                [layout.caption.text for layout in layouts],
                num_inference_steps=self.context.steps,
                guidance_scale=self.context.guidance_scale,
                generator=[
                    derive_generator(scenes.config.seed, split, number, "noise")
                    for number in numbers
                ],
                return_dict=False,
            )[0]
        seen = self.context.recogniser.recognise(pictures)
        records = [
            build_caption_record(layout, one, set(found.objects))
            for layout, one, found in zip(layouts, maps, seen, strict=True)
        ]
        return CaptionBatchRecord(pictures=records).model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapter: how well presence is recognised on the other scenes."""
        tests = [split for split in self.scenes_by_split if split != "fit"]
        samples: dict[str, PresenceSamples] = {
            split: collect_samples(records, split) for split in tests
        }
        return build_chapters(self.fit_presence(records), samples)

    def fit_presence(self, records: Mapping[str, Record]) -> PresenceFit:
        """Fit presence to the records of the split "fit", for the model's present weights."""
        return fit_presence(self.context.pipe, collect_samples(records, "fit"), CONVENTIONS)

    def _find_words(self, layout: SceneLayout) -> list[tuple[int, ...]]:
        text = layout.caption.text
        return [
            find_mention_token_span(self.context.pipe, text, mention.word, mention.span)
            for mention in layout.caption.mentions
        ]


def build_caption_record(
    layout: SceneLayout, maps: Mapping[Convention, HeatMaps], found: set[str]
) -> CaptionPresenceRecord:
    """Return the record of a drawn caption.

    maps : of the words of its mentions in their order, by convention
    found : names of the objects that the recogniser found
    """
    words = []
    for number, mention in enumerate(layout.caption.mentions):
        name = layout.objects[mention.object_index].name
        features = {
            convention: {
                feature: round(value, 6)
                for feature, value in measure_presence_features(
                    one.unscaled(one.words[number])
                ).items()
            }
            for convention, one in maps.items()
        }
        words.append(WordRecord(name=name, features=features, is_there=name in found))
    return CaptionPresenceRecord(caption=layout.caption.text, words=words)
