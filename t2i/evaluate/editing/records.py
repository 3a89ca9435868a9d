"""Records of the editing part, as records.jsonl stores them."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.scores import PixelSimilarity

DECIMALS = 6


class FrozenPydanticModel(BaseModel):
    """Base class of pydantic models that are frozen and refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PixelSimilarityRecord(FrozenPydanticModel):
    """Record for records.jsonl of how similar two pictures' pixels are: PSNR, MSE and SSIM."""

    psnr: float
    mse: float
    ssim: float


class EditedPictureRecord(FrozenPydanticModel):
    """Scores of the picture that one editing method made of a prompt pair.

    success : True if the requested change has happened
    everything : True if the picture shows all that the target prompt states
    stayed : similarity to the source over the region that is to stay; None where there is none
    whole : similarity to the source over the whole picture
    structure : structure distance to the source
    fit : score of the picture for the target's caption; None without a caption matcher
    fit_there : score of the edited region for its own words; None without such a region
    """

    success: bool
    everything: bool
    stayed: PixelSimilarityRecord | None
    whole: PixelSimilarityRecord
    structure: float
    fit: float | None
    fit_there: float | None


class PromptPairRecord(FrozenPydanticModel):
    """Record of a prompt pair that was edited by every method.

    source_right : True if the source's picture fulfils its prompt
    """

    kind: ChangeKind
    source: str
    target: str
    source_right: bool
    methods: dict[str, EditedPictureRecord]
    file: str


class TwoObjectPromptRecord(FrozenPydanticModel):
    """Record of a two-object prompt, without an edit and with each edit, by name.

    both, relation : by edit, True if both objects are present, and in the stated relation
    whole : similarity to the picture without an edit
    """

    caption: str
    both: dict[str, bool]
    relation: dict[str, bool]
    whole: dict[str, PixelSimilarityRecord]
    file: str


class RelativeCostRecord(FrozenPydanticModel):
    """Time and memory of an editing method relative to the same images without an edit.

    time : ratio of processor times, one for each round
    extra_bytes : additional memory of torch at the peak
    """

    method: str
    time: list[float]
    extra_bytes: int


def build_pixel_similarity_record(kept: PixelSimilarity) -> PixelSimilarityRecord:
    """Return the similarity of two pictures' pixels (PSNR, MSE, SSIM), rounded, as a record for
    records.jsonl.
    """
    rounded = {name: round(value, DECIMALS) for name, value in asdict(kept).items()}
    return PixelSimilarityRecord(**rounded)
