"""Choice of a model's presets from what their candidates cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2i.denoiser.presets import EXACT, FAST, Preset, PresetCost
from t2i.evaluate.generation.records import flatten_results_of_one_criterion
from t2i.evaluate.report.chapter import Estimate
from t2i.evaluate.report.statistics import (
    draw_bootstrap_indices,
    mean_with_bootstrap_interval,
    paired_difference,
    percentile_interval,
    proportion_with_interval,
)
from t2i.evaluate.tuning.candidates import Candidate
from t2i.evaluate.tuning.part import CaptionRecord

FASTEST = "fastest"
MAX_LOSS_BY_PRESET = {FAST: 0.02, FASTEST: 0.10}
"""Most of "everything said" that a preset may lose: the lower end of the paired interval of the
difference to `exact` must lie above."""
MAX_DISTANCE_BY_PRESET = {FAST: 0.05, FASTEST: 0.10}
"""Largest root mean square distance to the images of `exact`, of pixels from 0 to 1, where nothing
judges images: half and a full grade of what one sees at once."""
SAID = "everything"
JUDGED_CRITERIA = {"everything": "said", "each": "objects", "relation": "relation"}
"""Criterion -> head of its column in the table of costs."""


@dataclass(frozen=True, slots=True)
class CandidateCost:
    """Measured cost of a candidate, paired with the plain defaults caption by caption.

    time : median of its time as a share of theirs
    rows : of denoiser calls, as a share of theirs
    differences : criterion -> its share of images that meet it less theirs; {} without a judge
    """

    candidate: Candidate
    time: Estimate
    rows: float
    distance: Estimate
    differences: Mapping[str, Estimate]

    def to_preset(self, weights: str) -> Preset:
        """Return the candidate as a preset, with its cost and the fingerprint of the weights."""
        said = self.differences.get(SAID)
        cost = PresetCost(
            time=round(self.time.value, 3),
            time_interval=_round_interval(self.time, 1),
            said=None if said is None else round(100 * said.value, 2),
            said_interval=None if said is None else _round_interval(said, 100),
            distance=round(self.distance.value, 4),
            captions=self.distance.count,
        )
        return self.candidate.preset.model_copy(update={"weights": weights, "cost": cost})


def measure_costs(
    candidates: Sequence[Candidate], records: Sequence[CaptionRecord]
) -> list[CandidateCost]:
    """Return the cost of each candidate, of which the first is the plain defaults."""
    return [_measure_cost(one, candidates[0].name, records) for one in candidates]


def _measure_cost(
    candidate: Candidate, plain: str, records: Sequence[CaptionRecord]
) -> CandidateCost:
    ours = [record.images[candidate.name] for record in records]
    theirs = [record.images[plain] for record in records]
    distance = mean_with_bootstrap_interval([one.distance for one in ours])
    assert distance is not None
    differences = {}
    for kind in JUDGED_CRITERIA:
        sides = (
            proportion_with_interval(
                flatten_results_of_one_criterion([one.right for one in side], kind)
            )
            for side in (ours, theirs)
        )
        if (difference := paired_difference(*sides)) is not None:
            differences[kind] = difference
    return CandidateCost(
        candidate,
        median_with_bootstrap_interval(
            [a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)]
        ),
        sum(one.rows for one in ours) / max(1, sum(one.rows for one in theirs)),
        distance,
        differences,
    )


def median_with_bootstrap_interval(values: Sequence[float]) -> Estimate:
    """Return the median of the values with a bootstrap interval, which one value does not have."""
    sample = np.asarray(values, dtype=np.float64)
    value = float(np.median(sample))
    if len(sample) == 1:
        return Estimate(value, None, None, 1)
    resampled = np.median(sample[draw_bootstrap_indices(len(sample))], axis=1)
    return Estimate(value, *percentile_interval(resampled), len(sample))


def choose_presets(costs: Sequence[CandidateCost]) -> dict[str, CandidateCost]:
    """Return for each preset the candidate that takes the least time among those that keep to its
    limit: of the loss of "everything said", or of the distance where nothing judges.

    A preset that no candidate deserves is missing.
    """
    chosen: dict[str, CandidateCost] = {}
    for name, limit in MAX_LOSS_BY_PRESET.items():
        good = [
            cost
            for cost in costs
            if cost.candidate.name != EXACT
            and _is_surely_faster(cost)
            and _keeps_to_limit(cost, limit, MAX_DISTANCE_BY_PRESET[name])
        ]
        if good:
            chosen[name] = min(good, key=lambda cost: cost.time.value)
    return chosen


def _is_surely_faster(cost: CandidateCost) -> bool:
    return (cost.time.value if cost.time.high is None else cost.time.high) < 1


def _keeps_to_limit(cost: CandidateCost, max_loss: float, max_distance: float) -> bool:
    said = cost.differences.get(SAID)
    if said is None:
        return cost.distance.value <= max_distance
    return said.low is not None and said.low >= -max_loss


def _round_interval(figure: Estimate, factor: float) -> tuple[float, float] | None:
    if figure.low is None or figure.high is None:
        return None
    return round(factor * figure.low, 3), round(factor * figure.high, 3)
