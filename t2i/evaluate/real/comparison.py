"""Paired comparison of editing methods, and the choice among them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from t2i.evaluate.report.chapter import Estimate
from t2i.evaluate.report.statistics import (
    draw_bootstrap_indices,
    mean_with_bootstrap_interval,
    paired_difference,
    percentile_interval,
    proportion_with_interval,
)

SUCCESS_MARGIN = 0.05
"""Share of success by which a method may lie below the best and still be chosen."""

Samples = Sequence[float | None]
Flags = Sequence[bool | None]


def compute_difference_on_common_samples(one: Samples, other: Samples) -> Estimate | None:
    """Return the mean of `one` minus that of `other`, with interval, over the samples both have.

    Paired, sample by sample; None if they have none in common.
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        return None
    ours, theirs = zip(*both, strict=True)
    if all(isinstance(value, bool) for value in (*ours, *theirs)):
        return paired_difference(proportion_with_interval(ours), proportion_with_interval(theirs))
    return paired_difference(
        mean_with_bootstrap_interval(ours), mean_with_bootstrap_interval(theirs)
    )


def compute_paired_proportion_ratio(one: Flags, other: Flags) -> Estimate | None:
    """Return the proportion of `one` divided by that of `other`, with a bootstrap interval.

    Over the samples that both have; None where there are none, or `other` is nowhere true.
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not any(b for _, b in both):
        return None
    ours, theirs = np.asarray(both, dtype=np.float64).T
    ratio = float(ours.sum() / theirs.sum())
    numbers = draw_bootstrap_indices(len(both))
    above, below = ours[numbers].sum(axis=1), theirs[numbers].sum(axis=1)
    if len(both) == 1 or (below == 0).any():  # so few that a draw may hold none
        return Estimate(ratio, None, None, len(both))
    return Estimate(ratio, *percentile_interval(above / below), len(both))


def choose_most_preserving_and_most_successful_methods(
    successes: Mapping[str, Flags], kept: Mapping[str, Samples]
) -> tuple[str, str] | None:
    """Return the method that keeps most among the most successful ones, and the most successful.

    The choice is among those whose share of success is at most SUCCESS_MARGIN below the highest.
    None if there is no method.

    successes : label -> whether each picture shows the change
    kept : label -> how much of each picture was kept, such as the PSNR; more is better
    """
    shares = {label: fmean(map(bool, flags)) for label, flags in successes.items()}
    if not shares:
        return None

    def keep(label: str) -> float:
        known = [value for value in kept[label] if value is not None]
        return fmean(known) if known else 0.0

    best = max(shares, key=lambda label: (shares[label], keep(label)))
    near = [label for label in shares if shares[label] >= shares[best] - SUCCESS_MARGIN - 1e-9]
    return max(near, key=keep), best
