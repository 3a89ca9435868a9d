"""Records of the generation part, as records.jsonl stores them, and runs of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from t2i.scenes.recognised_objects import Recognition

DECIMALS = 4
"""Decimals of the features and scores in a record; features are of the order of 1."""

MISTAKE_TEXTS: dict[str, str] = {
    "one": "object missing",
    "each": "object missing",
    "relation": "not as placed",
    "background": "other background",
    "recolour": "other colour",
    "natural": "other colour",
    "nothing_else": "something else there",
}
"""Criterion -> label under a picture that fails it; no criterion here follows from another."""


class RecognisedObjectRecord(BaseModel):
    """Record of a recognised object: colour, centre (x, y, from 0 to 1) and share of the area."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: str
    centre: tuple[float, float]
    share: float


class PictureRecord(BaseModel):
    """Record of one picture: caption, recognised objects and judgement by each criterion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Of the scene in its split."""
    caption: str
    objects: dict[str, RecognisedObjectRecord]
    background: str
    right: dict[str, list[bool]]
    right_by_another: dict[str, list[bool]]
    """As another caption has it."""
    features: list[float]
    atoms: list[float] | None = None
    """Score of each atom of the caption, as t2i.evaluate.generation.soft_tifa has them; None in
    records that were written before there were any."""
    fit: float | None = None
    """How well the caption fits, as t2i.scenes.caption_matcher scores it."""
    fit_of_another: float | None = None
    """The same of the next scene's caption."""
    file: str | None = None
    """The name under which it was kept; a real scene is not."""

    @property
    def mistake_descriptions(self) -> list[str]:
        """Descriptions of what does not fit the caption, one for each criterion not met."""
        known = {kind: self.right[kind] for kind in MISTAKE_TEXTS if kind in self.right}
        return [MISTAKE_TEXTS[kind] for kind, flags in known.items() for flag in flags if not flag]


class BatchRecord(BaseModel):
    """Record of a batch of pictures, and of the time and passes they took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[PictureRecord]
    seconds: float
    """Of sampling all of them."""
    passes: int
    """Rows that the denoiser was called with meanwhile."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Pictures that were sampled with the same settings, or rendered, batch by batch, with their
    records: one point of a sweep.

    label : the varied setting as text
    value : the varied setting as a number; 0 where it is none
    """

    label: str
    value: float
    batches: Sequence[BatchRecord]

    @property
    def pictures(self) -> list[PictureRecord]:
        """Records of all pictures that were sampled with the same settings."""
        return [picture for batch in self.batches for picture in batch.pictures]

    @property
    def seconds_per_picture_by_batch(self) -> list[float]:
        """Sampling time per picture, in seconds, of each batch of pictures."""
        return [batch.seconds / len(batch.pictures) for batch in self.batches]

    @property
    def denoiser_rows_per_picture(self) -> float:
        """Rows of denoiser calls per picture, a cost that does not depend on the machine."""
        return sum(batch.passes for batch in self.batches) / len(self.pictures)

    def list_criterion_results(self, kind: str) -> list[bool | None]:
        """Return the results of one criterion over all pictures to which it applies, True if met;
        None stands for a result that could not be measured.
        """
        return flatten_results_of_one_criterion([picture.right for picture in self.pictures], kind)

    def list_other_caption_results(self, kind: str) -> list[bool | None]:
        """Return the results of one criterion over all pictures, each judged by the caption of
        another picture: the share of True is what chance gives.
        """
        return flatten_results_of_one_criterion(
            [picture.right_by_another for picture in self.pictures], kind
        )


def flatten_results_of_one_criterion(
    judged: Sequence[Mapping[str, Sequence[bool]]], kind: str
) -> list[bool | None]:
    """Return the results of one criterion, from the criterion results of many pictures, as one flat
    list; a picture whose list of results is empty counts as one None.

    An empty list of results counts as one None: so the number of results depends on the captions
    alone, and runs can be paired.
    """
    known = [flags[kind] for flags in judged if kind in flags]
    nothing: list[bool | None] = [None]
    return [flag for flags in known for flag in (flags or nothing)]


def build_recognised_object_records(seen: Recognition) -> dict[str, RecognisedObjectRecord]:
    """Return the record for records.jsonl of each recognised object of a picture, by name."""
    return {
        name: RecognisedObjectRecord(
            colour=found.colour,
            centre=(round(found.centre[0], 3), round(found.centre[1], 3)),
            share=round(found.share, 4),
        )
        for name, found in seen.objects.items()
    }
