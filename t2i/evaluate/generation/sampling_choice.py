"""Which way to sample the sweep speaks for: the cheapest that is not surely worse than the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.records import Run
from t2i.evaluate.report.chapter import Figure
from t2i.evaluate.report.statistics import paired_difference, share

JUDGED_BY = "everything"
"""Of t2i.evaluate.generation.judge.KINDS."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Of the runs of a sweep.

    best : with the highest share; of equal ones the cheapest
    cheapest : of those that are not surely worse than it
    lost : label -> how much less than the best, within the same scenes; the best is not among them
    """

    best: Run
    cheapest: Run
    lost: Mapping[str, Figure]


def choose(runs: Sequence[Run], own: str) -> Choice | None:
    """None without flags to judge by.

    own : the label of the model's own way

    Surely worse: the interval of the difference to the best, paired by scene, lies below 0. What a
    run costs is passes of the denoiser, not seconds, which tell of the machine too. Of equally
    cheap ones the model's own way, then the one with the higher share.
    """
    right = {run.label: share(run.flags(JUDGED_BY)) for run in runs}
    shares = {label: figure.value for label, figure in right.items() if figure is not None}
    if len(shares) < len(runs):
        return None
    best = min(runs, key=lambda run: (-shares[run.label], run.passes, run.label != own))
    lost = {
        run.label: change
        for run in runs
        if run is not best and (change := paired_difference(right[run.label], right[best.label]))
    }
    cheapest = min(
        (run for run in runs if not is_worse(lost.get(run.label))),
        key=lambda run: (run.passes, run.label != own, -shares[run.label]),
    )
    return Choice(best, cheapest, lost)


def is_worse(change: Figure | None) -> bool:
    return change is not None and change.high is not None and change.high < 0
