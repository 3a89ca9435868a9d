"""Choice of sampling settings from a sweep: the cheapest not significantly worse than the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.records import SweepPoint
from t2i.evaluate.report.chapter import Estimate
from t2i.evaluate.report.statistics import paired_difference, proportion_with_interval

CHOICE_CRITERION = "everything"
"""Criterion that runs are ranked by: a key in t2i.evaluate.generation.judge.CRITERION_TITLES."""


@dataclass(frozen=True, slots=True)
class SweepRecommendation:
    """Best and cheapest setting among those that a sweep of sampling settings compares.

    best : the run with the highest share of correct pictures; of equal ones the cheapest
    cheapest : the cheapest run that is not significantly worse than the best
    differences_to_best : label -> share minus that of the best, paired by scene; without the best
    """

    best: SweepPoint
    cheapest: SweepPoint
    differences_to_best: Mapping[str, Estimate]


def choose_best_and_cheapest(
    runs: Sequence[SweepPoint], default_label: str
) -> SweepRecommendation | None:
    """Choose the best setting of a sweep and the cheapest that is not significantly worse.

    default_label : the label of the model's own settings
    Returns None where a run has no results.

    Significantly worse: the interval of the difference to the best, paired by scene, lies below
    0. The cost of a run is its denoiser passes, not seconds, which depend on the machine. Among
    equally cheap runs the model's own settings win, then the higher share.
    """
    right = {
        run.label: proportion_with_interval(run.list_criterion_results(CHOICE_CRITERION))
        for run in runs
    }
    shares = {label: figure.value for label, figure in right.items() if figure is not None}
    if len(shares) < len(runs):
        return None
    best = min(
        runs,
        key=lambda run: (
            -shares[run.label],
            run.denoiser_rows_per_picture,
            run.label != default_label,
        ),
    )
    lost = {
        run.label: change
        for run in runs
        if run is not best and (change := paired_difference(right[run.label], right[best.label]))
    }
    cheapest = min(
        (run for run in runs if not is_significantly_worse(lost.get(run.label))),
        key=lambda run: (
            run.denoiser_rows_per_picture,
            run.label != default_label,
            -shares[run.label],
        ),
    )
    return SweepRecommendation(best, cheapest, lost)


def is_significantly_worse(change: Estimate | None) -> bool:
    """Return True if the confidence interval of a difference lies entirely below 0."""
    return change is not None and change.high is not None and change.high < 0
