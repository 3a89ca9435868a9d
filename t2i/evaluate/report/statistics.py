"""Figures with 95 % confidence intervals: proportions, means and their differences."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2i.evaluate.report.chapter import Estimate

Z_95 = 1.959963984540054
"""Standard deviations to either side of the mean that hold 95 % of a normal distribution."""
BOOTSTRAP_RESAMPLES = 2000
BOOTSTRAP_SEED = 20_260_101
"""Seed of the bootstrap: the same values have the same interval in every run."""


def proportion_with_interval(flags: Sequence[bool | None]) -> Estimate | None:
    """Return the proportion of True with Wilson's interval (1927); None without values.

    Unlike the normal approximation it stays within 0 and 1 and has a width at either end. A flag
    that is None could not be measured: it does not count, and keeps its place among the samples.
    """
    known = [flag for flag in flags if flag is not None]
    if not known:
        return None
    p = sum(known) / len(known)
    samples = [None if flag is None else float(flag) for flag in flags]
    return Estimate(p, *compute_wilson_interval_of_proportion(p, len(known)), len(known), samples)


def compute_wilson_interval_of_proportion(p: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion p of `count` trials."""
    spread = Z_95**2 / count
    middle = (p + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    # At either end the formula meets it exactly; floats need not.
    return 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half


def mean_with_bootstrap_interval(values: Sequence[float | None]) -> Estimate | None:
    """Return the mean of the values with a bootstrap interval; None without values.

    Efron (1979). One value has no interval. A value that is None was not measured: it does not
    count, and keeps its place among the samples.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    sample = np.asarray(known, dtype=np.float64)
    value = float(sample.mean())
    if len(known) == 1:
        return Estimate(value, None, None, 1, [*values])
    ends = percentile_interval(sample[draw_bootstrap_indices(len(known))].mean(axis=1))
    return Estimate(value, *ends, len(known), [*values])


def draw_bootstrap_indices(count: int) -> NDArray[np.int64]:
    """Return bootstrap resamples as indices (BOOTSTRAP_RESAMPLES, count), with replacement."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, (BOOTSTRAP_RESAMPLES, count))


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of bootstrapped values, a 95 % interval."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def independent_difference(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    """Return `one` minus `other`, of independent samples, with an interval from both.

    The square-and-add interval: Newcombe (1998, Statistics in Medicine 17, 873-890), method 10,
    for proportions; Zou and Donner (2008) for any figure with an interval. For samples of the same
    units it is wider than necessary. None if one is missing.
    """
    if one is None or other is None:
        return None
    value = one.value - other.value
    count = None if one.count is None or other.count is None else min(one.count, other.count)
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Estimate(value, None, None, count)
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - down, value + up, count)


def paired_difference(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    """Return `one` minus `other`, of samples that are paired, with its interval.

    For complete flags Newcombe's interval (1998, Statistics in Medicine 17, 2635-2650, method
    10); for other values a bootstrap that draws units. Without samples, or with samples of
    different length, the wider interval of `independent_difference`.
    """
    unpaired = independent_difference(one, other)
    if unpaired is None or one is None or other is None or not (one.samples and other.samples):
        return unpaired
    if len(one.samples) != len(other.samples):
        return unpaired
    ours, theirs = (np.asarray(side.samples, dtype=np.float64) for side in (one, other))
    if is_binary(ours) and is_binary(theirs):
        if np.isnan(ours).any() or np.isnan(theirs).any():
            return unpaired
        return paired_proportion_difference(ours > 0, theirs > 0)
    if unpaired.low is None:
        return unpaired
    numbers = draw_bootstrap_indices(len(ours))
    with np.errstate(invalid="ignore"):
        changes = nan_means(ours[numbers]) - nan_means(theirs[numbers])
    if np.isnan(changes).any():  # so few of them that a draw may hold none
        return unpaired
    both = int((~np.isnan(ours) & ~np.isnan(theirs)).sum())
    return Estimate(unpaired.value, *percentile_interval(changes), both)


def is_binary(values: NDArray[np.float64]) -> bool:
    """Return True if all sample values, not counting NaN, are 0 or 1, so that their mean is a
    proportion.
    """
    return bool(np.isin(values[~np.isnan(values)], (0, 1)).all())


def nan_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means along the last axis, ignoring NaN; NaN where there is nothing else."""
    there = ~np.isnan(values)
    summed: NDArray[np.float64] = np.where(there, values, 0).sum(axis=-1)
    mean_of: NDArray[np.float64] = summed / there.sum(axis=-1)
    return mean_of


def paired_proportion_difference(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Estimate:
    """Return the difference of two paired proportions by Newcombe's method 10.

    a, b, c, d : how often both hold, only the one, only the other, none
    """
    n = len(one)
    a, b = int((one & other).sum()), int((one & ~other).sum())
    c = int((~one & other).sum())
    d = n - a - b - c
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = (
        compute_wilson_interval_of_proportion(p1, n),
        compute_wilson_interval_of_proportion(p2, n),
    )
    # How alike both are, with his correction for continuity.
    product, more = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    phi = 0.0
    if product:
        phi = (max(0.0, more - n / 2) if more > 0 else more) / math.sqrt(product)
    down = combine_correlated_half_widths(p1 - l1, u2 - p2, phi)
    up = combine_correlated_half_widths(u1 - p1, p2 - l2, phi)
    value = p1 - p2
    return Estimate(value, value - down, value + up, n)


def combine_correlated_half_widths(one: float, other: float, phi: float) -> float:
    """Combine two half widths of intervals into that of the difference, correlated by phi."""
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def is_significant(change: Estimate) -> bool:
    """Return True if the confidence interval of a difference does not contain 0."""
    return change.low is not None and change.high is not None and not change.low <= 0 <= change.high
