"""Records of the part "hints", as records.jsonl stores them."""

from pydantic import BaseModel, ConfigDict

COLOUR_CRITERIA = ("recolour", "natural")
"""Criteria of the judge that are about colours of objects."""


class HintedPictureRecord(BaseModel):
    """Record of one picture: how far its objects cover their places in the scene, and what of its
    caption it shows.
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

    def list_results(self, criterion: str) -> list[bool]:
        """List the results of a criterion; of "colour" those of all objects whose colour is
        said.
        """
        names = COLOUR_CRITERIA if criterion == "colour" else (criterion,)
        return [flag for name in names for flag in self.right.get(name, ())]


class HintUnitRecord(BaseModel):
    """Record of a unit: pictures that were drawn together under one condition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[HintedPictureRecord]
