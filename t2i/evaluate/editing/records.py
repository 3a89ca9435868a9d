"""What records of editing hold."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from t2i.evaluate.editing.pairs import Kind
from t2i.evaluate.editing.scores import Kept

DECIMALS = 6


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Alike(Strict):
    """See t2i.evaluate.editing.scores.Kept."""

    psnr: float
    mse: float
    ssim: float


class Edited(Strict):
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
    stayed: Alike | None
    whole: Alike
    structure: float
    fit: float | None
    fit_there: float | None


class EditedPair(Strict):
    """The record of a pair.

    source_right : whether the source's picture shows all that its prompt says
    """

    kind: Kind
    source: str
    target: str
    source_right: bool
    methods: dict[str, Edited]
    file: str


class TwoObjects(Strict):
    """The record of a prompt of two objects, by method.

    both, relation : whether both are there, and stand as told
    whole : how alike the picture is to that without an edit
    """

    caption: str
    both: dict[str, bool]
    relation: dict[str, bool]
    whole: dict[str, Alike]
    file: str


class Cost(Strict):
    """Of a method beside the same rows without an edit.

    time : of a processor, as a ratio, round by round
    extra_bytes : of torch at the peak
    """

    method: str
    time: list[float]
    extra_bytes: int


def alike(kept: Kept) -> Alike:
    rounded = {name: round(value, DECIMALS) for name, value in asdict(kept).items()}
    return Alike(**rounded)
