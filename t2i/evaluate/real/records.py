"""Records of the part "real"."""

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.records import SimilarityRecord, StrictModel
from t2i.evaluate.real.edit_methods import EditCost
from t2i.evaluate.real.picture_pairs import Split


class CostRecord(StrictModel):
    """Denoiser rows and seconds that a part of an edit took."""

    rows: int
    seconds: float


class EditCostRecord(StrictModel):
    """Cost of a picture that a method made: of inverting and recording, and of each edit after."""

    inversion: CostRecord
    edit: CostRecord


class PictureRecord(StrictModel):
    """Scores of a picture in the place of the target.

    success : the requested change has happened
    everything : the target's prompt is fulfilled
    kept : similarity to the source over the pixels that were to stay; None where there are none
    kept_structure : distance of the layouts there
    target : similarity to the composed target over the whole picture
    fit : caption score of the target's prompt; None without a caption matcher
    """

    success: bool
    everything: bool
    kept: SimilarityRecord | None
    kept_structure: float | None
    target: SimilarityRecord
    fit: float | None


class EditedRecord(EditCostRecord):
    """Scores and cost of the picture that a method made.

    replay : PSNR of the source drawn again; None where the method reproduces it by construction
    """

    scores: PictureRecord
    replay: float | None


class PicturePairRecord(StrictModel):
    """Record of a picture pair that was edited by every method.

    autoencoder : PSNR of the source encoded and decoded, over the whole picture
    controls : name of a picture that no edit made -> its scores
    methods : label of a method -> its scores and cost
    refused : label of a method -> why the model cannot be used with it
    """

    split: Split
    kind: ChangeKind
    source: str
    target: str
    autoencoder: float
    controls: dict[str, PictureRecord]
    methods: dict[str, EditedRecord]
    refused: dict[str, str]
    file: str


def build_cost_record(cost: EditCost) -> CostRecord:
    """Return the record of a cost, rounded."""
    return CostRecord(rows=cost.rows, seconds=round(cost.seconds, 4))
