"""What a sample says of all there could have been: figures with 95 % intervals."""

import math
from collections.abc import Sequence

import numpy as np

from t2i.evaluate.telling.chapter import Figure

Z = 1.959963984540054
"""How many standard deviations of a normal distribution hold 95 % of it."""
RESAMPLES = 2000
SEED = 20_260_101
"""Of the bootstrap: the same values have the same interval in every run."""


def share(flags: Sequence[bool]) -> Figure | None:
    """How many of the flags are set, with Wilson's interval (1927); None of no flags.

    Unlike the textbook's interval it stays within 0 and 1, and is no point at either end.
    """
    count = len(flags)
    if not count:
        return None
    p = sum(flags) / count
    spread = Z**2 / count
    middle = (p + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    # At either end the formula meets it exactly; floats need not.
    low = 0.0 if p == 0 else middle - half
    high = 1.0 if p == 1 else middle + half
    return Figure(p, low, high, count)


def mean(values: Sequence[float]) -> Figure | None:
    """The mean, with a percentile bootstrap over the samples (Efron 1979); None of no values.

    One value has no interval. NaN is no measurement: leave out what was not measured.
    """
    count = len(values)
    if not count:
        return None
    sample = np.asarray(values, dtype=np.float64)
    if count == 1:
        return Figure(float(sample[0]), None, None, 1)
    rng = np.random.default_rng(SEED)
    means = sample[rng.integers(0, count, (RESAMPLES, count))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(sample.mean()), float(low), float(high), count)


def difference(one: Figure | None, other: Figure | None) -> Figure | None:
    """How much more `one` is, of independent samples, from the intervals of both.

    The square-and-add interval: Newcombe (1998), method 10, of shares; Zou and Donner (2008) of
    whatever has an interval. Of the same units it is wider than need be. None where one is missing.
    """
    if one is None or other is None:
        return None
    value = one.value - other.value
    count = None if one.count is None or other.count is None else min(one.count, other.count)
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Figure(value, None, None, count)
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Figure(value, value - down, value + up, count)


def is_sure(change: Figure) -> bool:
    """Whether the interval of a difference leaves no room for none."""
    return change.low is not None and change.high is not None and not change.low <= 0 <= change.high
