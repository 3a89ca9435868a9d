"""Part "segmentation" of the suite: Pascal VOC or COCO, segmented by heat maps of its classes.

H W size of a picture.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from t2i.attention import HeatMaps, attend
from t2i.attention.probes.segmentation import NO_WORD, Segmentation
from t2i.denoiser.families import sd
from t2i.errors import DataError
from t2i.evaluate.inspection.known_picture_scheduler import (
    build_known_picture_scheduler,
    copy_pipeline_with_scheduler,
)
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.segmentation.chapters import build_chapters
from t2i.evaluate.segmentation.datasets import (
    BACKGROUND,
    DEFAULT_SPLITS,
    READERS,
    VOID,
    Labels,
    SegmentedPicture,
    SegmentedPictures,
)
from t2i.evaluate.segmentation.records import SegmentedPictureRecord, measure_overlap
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.pictures import build_picture_grid, open_picture
from t2i.randomness import derive_generator
from t2i.text.word_spans import find_token_spans_of_character_ranges

NoiseLevel = Annotated[float, Field(gt=0, lt=1)]
MeasuredConvention = Literal["default", "refined", "daam", "mean"]
ALL_BACKGROUND = "no word anywhere"
METHOD_TITLES = {
    "default": "our default",
    "refined": "refined by self-attention",
    "daam": "DAAM's convention",
    "mean": "mean of the probabilities",
    ALL_BACKGROUND: "control: no word anywhere",
}


class SegmentationConfig(BaseModel):
    """Configuration of the part "segmentation": where the data set is, and what is measured.

    No picture of it is part of t2i, and nothing is downloaded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["voc", "coco"]
    folder: str
    """VOCdevkit/VOC2012, or a folder with COCO's annotations/ and val2017/."""
    split: str | None = Field(None, pattern=r"^[\w-]{1,64}$")
    """"val" or "val2017" where it is left out."""
    count: int | None = Field(None, ge=1)
    """Number of pictures, the first ones; by default all."""
    conventions: tuple[MeasuredConvention, ...] = Field(
        ("default", "refined", "daam", "mean"), min_length=1
    )
    levels: tuple[NoiseLevel, ...] = Field((0.7, 0.5, 0.3), min_length=1)
    """How far along the noise schedule a picture is noised, from 0 to 1."""
    seed: int = Field(0, ge=0)

    @property
    def used_split(self) -> str:
        """Name of the split that is measured."""
        return self.split or DEFAULT_SPLITS[self.kind]


class SegmentationPart:
    """Part of the suite that segments the pictures of a published data set by heat maps."""

    name = "segmentation"

    def __init__(self, config: SegmentationConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the pictures that are segmented, as the data set names them."""
        return [*self.pictures_by_key]

    def measure_unit(self, unit: str) -> Record:
        """Segment a picture by the heat maps of each convention; return the record of IoUs."""
        one = self.pictures_by_key[unit]
        picture, truth_HW = open_picture(one.path).convert("RGB"), one.read_labels()
        if truth_HW.shape != (picture.height, picture.width):
            raise DataError(
                f"{one.path} has {picture.width} x {picture.height} pixels, and its segmentation "
                f"{truth_HW.shape[1]} x {truth_HW.shape[0]}."
            )
        numbers = [n for n in np.unique(truth_HW).tolist() if n not in (BACKGROUND, VOID)]
        words = tuple(self.data.classes[number - 1] for number in numbers)
        found = {ALL_BACKGROUND: torch.full(truth_HW.shape, NO_WORD)}
        if words:
            maps = self._read_heat_maps(unit, picture, words)
            found = {name: one.segment(size=truth_HW.shape).labels_HW for name, one in maps.items()}
            found[ALL_BACKGROUND] = torch.full(truth_HW.shape, NO_WORD)
        methods = {
            name: measure_overlap(to_class_numbers(labels_HW, numbers), truth_HW, self.data.classes)
            for name, labels_HW in found.items()
        }
        strip = self._draw(picture, truth_HW, numbers, words, found)
        return SegmentedPictureRecord(
            words=[*words],
            methods={name: methods.get(name, methods[ALL_BACKGROUND]) for name in self.titles},
            file=self.context.save_picture(f"segmentation/{unit}", strip),
        ).model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Return the report chapters of the part from the records of all pictures, by key."""
        measured = [SegmentedPictureRecord.model_validate(record) for record in records.values()]
        return build_chapters(measured, self.config.kind, self.config.used_split, self.titles)

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the methods that are measured, by name."""
        return {name: METHOD_TITLES[name] for name in (*self.config.conventions, ALL_BACKGROUND)}

    @cached_property
    def data(self) -> SegmentedPictures:
        """Pictures of the data set, read from its folder."""
        return READERS[self.config.kind](Path(self.config.folder), self.config.used_split)

    @cached_property
    def pictures_by_key(self) -> dict[str, SegmentedPicture]:
        """Pictures that are segmented, by key."""
        return {one.key: one for one in self.data.pictures[: self.config.count]}

    def _read_heat_maps(
        self, unit: str, picture: Image.Image, words: Sequence[str]
    ) -> dict[str, HeatMaps]:
        """Return the heat maps of a picture's words, in their order, by each convention."""
        pipe, levels = self.context.pipe, self.config.levels
        height, width = sd.default_height_and_width(pipe.unet, pipe.vae)
        pixels = np.array(picture.resize((width, height), Image.Resampling.LANCZOS))
        noise = derive_generator(self.config.seed, unit, "noise")
        scheduler = build_known_picture_scheduler(pipe, pixels, levels, noise)
        along = copy_pipeline_with_scheduler(pipe, scheduler)
        prompt = build_prompt(words)
        spans = find_token_spans_of_character_ranges(
            pipe.tokenizer, prompt, find_word_ranges(prompt, words)
        )
        with attend(along) as attn:
            maps: dict[str, HeatMaps] = {
                convention: attn.probe(*spans, convention=convention)
                for convention in self.config.conventions
            }
            along(
                prompt,
                latents=scheduler.noised[0],
                num_inference_steps=len(levels),
                guidance_scale=1.0,
                output_type="latent",
            )
        return maps

    def _draw(
        self,
        picture: Image.Image,
        truth_HW: Labels,
        numbers: Sequence[int],
        words: tuple[str, ...],
        found: Mapping[str, Tensor],
    ) -> Image.Image:
        """Return the picture, the truth and each convention's segmentation in one row."""
        true_HW = torch.full(truth_HW.shape, NO_WORD)
        for place, number in enumerate(numbers):
            true_HW[torch.from_numpy(truth_HW == number)] = place
        shown = {"truth": true_HW, **{name: found.get(name, true_HW) for name in found}}
        shown.pop(ALL_BACKGROUND)
        tiles = [picture, *(Segmentation(one, words).draw(picture) for one in shown.values())]
        return build_picture_grid(tiles, ["picture", *shown], columns=len(tiles)).convert("RGB")


def build_prompt(words: Sequence[str]) -> str:
    """Return the prompt that names the classes of a picture.

    >>> build_prompt(["cat", "aeroplane"])
    'a photo of a cat and an aeroplane'
    """
    named = (f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in words)
    return "a photo of " + " and ".join(named)


def find_word_ranges(prompt: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the words stand in the prompt that `build_prompt` makes of them, as ranges of
    characters: of "dog", not the place in "hot dog".

    >>> find_word_ranges("a photo of a dog and a hot dog", ["dog", "hot dog"])
    [(13, 16), (23, 30)]
    """
    ranges, end = [], 0
    for word in words:
        start = prompt.index(word, end)
        end = start + len(word)
        ranges.append((start, end))
    return ranges


def to_class_numbers(labels_HW: Tensor, numbers: Sequence[int]) -> Labels:
    """Return the labels (H, W) of a data set for those of words: the number of the word's class, or
    BACKGROUND for NO_WORD, which is -1 and so takes the last entry.
    """
    by_word = np.array([*numbers, BACKGROUND], dtype=np.uint8)
    classes_HW: Labels = by_word[labels_HW.numpy()]
    return classes_HW
