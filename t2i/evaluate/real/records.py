"""Records of the part "real", as records.jsonl stores them."""

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.records import FrozenModel, SimilarityRecord
from t2i.evaluate.real.edit_methods import EditCost
from t2i.evaluate.real.picture_pairs import Split


class CostRecord(FrozenModel):
    """Record of the cost of an inversion or an edit: denoiser rows and seconds."""

    rows: int
    seconds: float


class EditCostRecord(FrozenModel):
    """Record of an edited picture's cost: of inverting and recording the source, and of editing."""

    inversion: CostRecord
    edit: CostRecord


class PictureScores(FrozenModel):
    """Record of the scores of an edited or baseline picture: does it show the change, what has it
    kept of the source, and how near is it to the pair's target.

    success : True if the requested change has happened
    everything : True if the picture shows all that the target prompt states
    kept : similarity to the source over the pixels that were to stay; None where there are none
    kept_structure : structure distance to the source there
    target : similarity to the composed target over the whole picture
    fit : caption score of the target's prompt; None without a caption matcher
    """

    success: bool
    everything: bool
    kept: SimilarityRecord | None
    kept_structure: float | None
    target: SimilarityRecord
    fit: float | None


class EditMethodRecord(EditCostRecord):
    """Record of the picture that one method made of a pair: its scores and cost.

    replay : PSNR of the source drawn again; None where the method reproduces it by construction
    """

    scores: PictureScores
    replay: float | None


class PicturePairScores(FrozenModel):
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
    controls: dict[str, PictureScores]
    methods: dict[str, EditMethodRecord]
    refused: dict[str, str]
    file: str


def build_cost_record(cost: EditCost) -> CostRecord:
    """Return the cost of an inversion or an edit as its record for records.jsonl, with rounded
    seconds.
    """
    return CostRecord(rows=cost.rows, seconds=round(cost.seconds, 4))
