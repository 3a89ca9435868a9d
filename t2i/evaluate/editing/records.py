"""What records of editing hold."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.scores import Similarity

DECIMALS = 6


class StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimilarityRecord(StrictModel):
    """See t2i.evaluate.editing.scores.Similarity."""

    psnr: float
    mse: float
    ssim: float


class EditedRecord(StrictModel):
    """One method's picture of a pair.

    success : the one thing that was to change has changed
    everything : all that the target's prompt says is there
    stayed : over the places that were to stay; None where there is none
    whole : over all places
    structure : distance of the layouts
    fit : how well the picture fits the target's prompt; None where the judge scores no captions
    fit_there : how well the edited place fits its own words; None where there is no such place
    """

    success: bool
    everything: bool
    stayed: SimilarityRecord | None
    whole: SimilarityRecord
    structure: float
    fit: float | None
    fit_there: float | None


class PairRecord(StrictModel):
    """The record of a pair.

    source_right : whether the source's picture shows all that its prompt says
    """

    kind: ChangeKind
    source: str
    target: str
    source_right: bool
    methods: dict[str, EditedRecord]
    file: str


class TwoObjectsRecord(StrictModel):
    """The record of a prompt of two objects, by method.

    both, relation : whether both are there, and stand as told
    whole : how alike the picture is to that without an edit
    """

    caption: str
    both: dict[str, bool]
    relation: dict[str, bool]
    whole: dict[str, SimilarityRecord]
    file: str


class CostRecord(StrictModel):
    """Of a method beside the same rows without an edit.

    time : of a processor, as a ratio, round by round
    extra_bytes : of torch at the peak
    """

    method: str
    time: list[float]
    extra_bytes: int


def similarity_record(kept: Similarity) -> SimilarityRecord:
    rounded = {name: round(value, DECIMALS) for name, value in asdict(kept).items()}
    return SimilarityRecord(**rounded)
