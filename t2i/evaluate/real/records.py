"""Records of the part "real", as records.jsonl stores them."""

from t2i.evaluate.editing.pairs import ChangeKind
from t2i.evaluate.editing.records import FrozenPydanticModel, PixelSimilarityRecord
from t2i.evaluate.real.edit_methods import DenoisingCost
from t2i.evaluate.real.picture_pairs import Split


class DenoisingCostRecord(FrozenPydanticModel):
    """Record of the cost of an inversion or an edit: denoiser rows and seconds."""

    rows: int
    seconds: float


class InversionAndEditCostRecord(FrozenPydanticModel):
    """Record of the cost of an edited picture, in two parts: of inverting and recording its source,
    and of editing it.
    """

    inversion: DenoisingCostRecord
    edit: DenoisingCostRecord


class PictureEditScores(FrozenPydanticModel):
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
    kept: PixelSimilarityRecord | None
    kept_structure: float | None
    target: PixelSimilarityRecord
    fit: float | None


class EditMethodRecord(InversionAndEditCostRecord):
    """Record of the picture that one editing method made of a picture pair's source: its scores and
    its costs.

    replay : PSNR of the source drawn again; None where the method reproduces it by construction
    """

    scores: PictureEditScores
    replay: float | None


class PicturePairRecord(FrozenPydanticModel):
    """Record of a picture pair whose source was edited by every editing method: the scores of each
    picture, and why a method was refused.

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
    controls: dict[str, PictureEditScores]
    methods: dict[str, EditMethodRecord]
    refused: dict[str, str]
    file: str


def build_denoising_cost_record(cost: DenoisingCost) -> DenoisingCostRecord:
    """Return the cost of an inversion or an edit as its record for records.jsonl, with rounded
    seconds.
    """
    return DenoisingCostRecord(rows=cost.rows, seconds=round(cost.seconds, 4))
