"""Records of the editing part."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.scores import Similarity

DECIMALS = 6


class StrictModel(BaseModel):
    """Frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SimilarityRecord(StrictModel):
    """Record of t2i.evaluate.editing.scores.Similarity."""

    psnr: float
    mse: float
    ssim: float


class EditedRecord(StrictModel):
    """One method's picture of a pair.

    success : the requested change has happened
    everything : the target's prompt is fulfilled
    stayed : similarity over the region that is to stay; None where there is none
    whole : similarity over the whole picture
    structure : distance of the layouts
    fit : caption score of the target's prompt; None without a caption matcher
    fit_there : score of the edited region with its own words; None without such a region
    """

    success: bool
    everything: bool
    stayed: SimilarityRecord | None
    whole: SimilarityRecord
    structure: float
    fit: float | None
    fit_there: float | None


class PairRecord(StrictModel):
    """Record of a pair, with one picture for each method.

    source_right : True if the source's picture fulfils its prompt
    """

    kind: ChangeKind
    source: str
    target: str
    source_right: bool
    methods: dict[str, EditedRecord]
    file: str


class TwoObjectsRecord(StrictModel):
    """Record of a prompt of two objects, by control.

    both, relation : True if both are present, and in the stated relation
    whole : similarity to the picture without an edit
    """

    caption: str
    both: dict[str, bool]
    relation: dict[str, bool]
    whole: dict[str, SimilarityRecord]
    file: str


class CostRecord(StrictModel):
    """Cost of a method relative to the same batch rows without an edit.

    time : ratio of processor times, one for each round
    extra_bytes : additional memory of torch at the peak
    """

    method: str
    time: list[float]
    extra_bytes: int


def build_similarity_record(kept: Similarity) -> SimilarityRecord:
    """Return the similarity, rounded, as a record."""
    rounded = {name: round(value, DECIMALS) for name, value in asdict(kept).items()}
    return SimilarityRecord(**rounded)
