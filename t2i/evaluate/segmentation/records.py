"""Records of the part "segmentation", as records.jsonl stores them, and their figures.

H W size of a picture.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from t2i.evaluate.segmentation.datasets import BACKGROUND, VOID

Labels = NDArray[np.integer]


class OverlapRecord(BaseModel):
    """Pixels of one picture on which a segmentation and the truth agree.

    correct, counted : pixels with the right label, and all but those that are void
    overlaps : name of a class, or "background" -> pixels of both, and of either
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    correct: int
    counted: int
    overlaps: dict[str, tuple[int, int]]


class SegmentedPictureRecord(BaseModel):
    """Record of one picture: the words that were looked for, and each method's segmentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: list[str]
    methods: dict[str, OverlapRecord]
    file: str


def measure_overlap(labels_HW: Labels, truth_HW: Labels, classes: Sequence[str]) -> OverlapRecord:
    """Compare a segmentation of a picture with the truth; pixels that are VOID do not count.

    labels_HW, truth_HW : BACKGROUND, or the number of a class from 1
    """
    counted_HW = truth_HW != VOID
    overlaps = {}
    for number in np.union1d(labels_HW[counted_HW], truth_HW[counted_HW]).tolist():
        found_HW, there_HW = labels_HW == number, truth_HW == number
        name = "background" if number == BACKGROUND else classes[number - 1]
        overlaps[name] = (
            int((found_HW & there_HW & counted_HW).sum()),
            int(((found_HW | there_HW) & counted_HW).sum()),
        )
    correct = int(((labels_HW == truth_HW) & counted_HW).sum())
    return OverlapRecord(correct=correct, counted=int(counted_HW.sum()), overlaps=overlaps)


def compute_iou_by_class(records: Sequence[OverlapRecord]) -> dict[str, float]:
    """Return the intersection over union of each class, over the pixels of all pictures together,
    as Pascal VOC defines it.
    """
    sums: dict[str, list[int]] = {}
    for record in records:
        for name, (both, either) in record.overlaps.items():
            total = sums.setdefault(name, [0, 0])
            total[0] += both
            total[1] += either
    return {name: both / either for name, (both, either) in sums.items()}
