"""Records of the part "hints", as records.jsonl stores them."""

from pydantic import BaseModel, ConfigDict

COLOUR_CRITERIA = ("recolour", "natural")
"""Criteria of the judge that are about colours of objects."""


class HintedPictureRecord(BaseModel):
    """Record of one picture of the hint evaluation: the IoU of each object with its place in the
    scene, and the results of each criterion of the caption.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Of the scene."""
    caption: str
    ious: dict[str, float]
    """Object -> intersection over union of its place in the scene and the place where it was
    recognised; 0 if it was not."""
    right: dict[str, list[bool]]
    """Criterion of the judge -> results."""
    file: str
    """Name under which the picture was kept."""

    def list_criterion_results(self, criterion: str) -> list[bool]:
        """Return the results (True if met) of one criterion of the caption for this picture; for
        "colour", those of all objects whose colour the caption states.
        """
        names = COLOUR_CRITERIA if criterion == "colour" else (criterion,)
        return [flag for name in names for flag in self.right.get(name, ())]


class HintUnitRecord(BaseModel):
    """Record of a unit of the hint evaluation: the records of pictures generated together under one
    condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[HintedPictureRecord]
