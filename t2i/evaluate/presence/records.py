"""Records of the part "presence": the features of each word's heat map, and what was recognised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from t2i.evaluate.suite_part import Record


class WordRecord(BaseModel):
    """Record of a word of a caption: the object that it names, the features of its heat map by
    convention, and whether the recogniser found the object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    features: dict[str, dict[str, float]]
    is_there: bool


class CaptionPresenceRecord(BaseModel):
    """Record of a caption and the words of its objects, of one generated picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caption: str
    words: list[WordRecord]


class CaptionBatchRecord(BaseModel):
    """Record of the captions of one batch of pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[CaptionPresenceRecord]


@dataclass(frozen=True, slots=True)
class PresenceSamples:
    """Samples of a split, one for each word of each caption, W words.

    is_there_W : (W,) bool ndarray, whether the recogniser found the object
    words : their records
    """

    is_there_W: NDArray[np.bool_]
    words: tuple[WordRecord, ...]

    def stack_features(self, convention: str, names: Iterable[str]) -> NDArray[np.float64]:
        """Return the named features of a convention as an ndarray (W, F)."""
        rows = [[word.features[convention][name] for name in names] for word in self.words]
        return np.array(rows, dtype=np.float64)


def collect_samples(records: Mapping[str, Record], split: str) -> PresenceSamples:
    """Collect the samples of a split from the records of all units, by unit key."""
    words = tuple(
        word
        for unit, record in records.items()
        if unit.startswith(f"{split}/")
        for picture in CaptionBatchRecord.model_validate(record).pictures
        for word in picture.words
    )
    return PresenceSamples(np.array([word.is_there for word in words], dtype=np.bool_), words)
