"""Records of the inspection part, as records.jsonl stores them."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from t2i.evaluate.inspection.map_scores import THRESHOLDS, MaskOverlapScores

ALL_LEVELS = "all"
"""Key in place of a noise level: the map that a probe averages over all levels."""
DECIMALS = 4


class HeatMapScoresRecord(BaseModel):
    """Record of the scores of one heat map of one word, at the threshold of its method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iou: float
    """At the threshold of its method."""
    best_iou: float
    pointing: bool
    precision: float
    leakage: float | None = None


class ObjectHeatMapScores(BaseModel):
    """Record of the scores of one object's heat maps, by method, noise level and site.

    methods : name -> level of noise, or ALL_LEVELS -> scores
    sites : name -> scores of the maps of that site alone, over all levels
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    word: str
    methods: dict[str, dict[str, HeatMapScoresRecord]]
    sites: dict[str, HeatMapScoresRecord] = {}


class SceneHeatMapRecord(BaseModel):
    """Record of the heat-map scores of a scene.

    objects : those of its caption that have a mask
    missing : objects of the caption without one: not recognised in the generated picture
    sites : sites of the method "best sites"
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    caption: str
    objects: list[ObjectHeatMapScores]
    missing: list[str] = []
    sites: list[str]
    file: str


class HeatMapCalibration(BaseModel):
    """Heat-map thresholds and best sites, chosen on scenes that no table uses.

    thresholds : of each method, and of each site alone
    site_ious : mean IoU of each site alone, the best first
    sites : the first of `site_ious` that are best together
    daam : why the package `daam` has no row; "" where it has one
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: int
    thresholds: dict[str, float]
    site_ious: dict[str, float]
    site_sizes: dict[str, str]
    sites: list[str]
    daam: str


def build_heat_map_scores_record(
    overlap: MaskOverlapScores, threshold: float
) -> HeatMapScoresRecord:
    """Return the scores of a heat map at a threshold as their record for records.jsonl, rounded."""
    return HeatMapScoresRecord(
        iou=round(overlap.ious[THRESHOLDS.index(threshold)], DECIMALS),
        best_iou=round(overlap.best_iou, DECIMALS),
        pointing=overlap.pointing,
        precision=round(overlap.average_precision, DECIMALS),
        leakage=None if overlap.leakage is None else round(overlap.leakage, DECIMALS),
    )


def find_best_threshold_and_mean_iou(
    overlaps: Sequence[MaskOverlapScores],
) -> tuple[float, float]:
    """Return the binarisation threshold at which the mean IoU over these heat maps is highest, and
    that mean IoU.
    """
    means = [
        sum(one.ious[number] for one in overlaps) / len(overlaps)
        for number in range(len(THRESHOLDS))
    ]
    best = max(range(len(means)), key=lambda number: means[number])
    return THRESHOLDS[best], means[best]


def round_and_sort_ious(ious: Mapping[str, float]) -> dict[str, float]:
    """Return a dict of IoUs by name (such as those of attention sites), rounded and sorted, the
    highest first.
    """
    ranked = sorted(ious, key=lambda name: (-ious[name], name))
    return {name: round(ious[name], DECIMALS) for name in ranked}
