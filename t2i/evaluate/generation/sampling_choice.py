"""Choose sampling settings from a sweep: the cheapest not significantly worse than the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2i.evaluate.generation.records import SamplingRun
from t2i.evaluate.report.chapter import Figure
from t2i.evaluate.report.statistics import paired_difference, proportion

CHOICE_CRITERION = "everything"
"""Of t2i.evaluate.generation.judge.CRITERIA."""


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """Of the runs of a sweep.

    best : with the highest share; of equal ones the cheapest
    cheapest : of those that are not significantly worse than it
    losses : label -> difference to the best within the same scenes; without the best itself
    """

    best: SamplingRun
    cheapest: SamplingRun
    losses: Mapping[str, Figure]


def choose_sampling(runs: Sequence[SamplingRun], own: str) -> SamplingChoice | None:
    """None without flags to judge by.

    own : the label of the model's own way

    Surely worse: the interval of the difference to the best, paired by scene, lies below 0. What a
    run costs is passes of the denoiser, not seconds, which tell of the machine too. Of equally
    cheap ones the model's own way, then the one with the higher share.
    """
    right = {run.label: proportion(run.flags(CHOICE_CRITERION)) for run in runs}
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
        (run for run in runs if not is_significantly_worse(lost.get(run.label))),
        key=lambda run: (run.passes, run.label != own, -shares[run.label]),
    )
    return SamplingChoice(best, cheapest, lost)


def is_significantly_worse(change: Figure | None) -> bool:
    return change is not None and change.high is not None and change.high < 0
