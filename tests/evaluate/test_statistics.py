"""Figures and their intervals, against published values and closed forms."""

import numpy as np
import pytest

from t2i.evaluate.report.chapter import Estimate
from t2i.evaluate.report.sample_values import format_sample_values, parse_sample_values
from t2i.evaluate.report.statistics import (
    independent_difference,
    is_significant,
    mean_with_bootstrap_interval,
    paired_difference,
    proportion_with_interval,
)


def test_a_share_has_wilsons_interval() -> None:
    # Newcombe (1998, Statistics in Medicine 17, 857-872), Table I, method 3.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        figure = proportion_with_interval([True] * right + [False] * (count - right))
        assert figure is not None
        assert (figure.value, figure.count) == (right / count, count)
        assert figure.low == pytest.approx(low, abs=5e-5)
        assert figure.high == pytest.approx(high, abs=5e-5)


def test_a_share_at_its_ends_is_no_point_and_stays_within_0_and_1() -> None:
    # The same table: 0 of 20 and 1 of 29.
    nothing, one = (
        proportion_with_interval([False] * 20),
        proportion_with_interval([True] + [False] * 28),
    )
    assert nothing is not None
    assert one is not None
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(0.1611, abs=5e-5))
    assert (one.low, one.high) == (
        pytest.approx(0.0061, abs=5e-5),
        pytest.approx(0.1718, abs=5e-5),
    )
    everything = proportion_with_interval([True] * 20)
    assert everything is not None
    assert (everything.low, everything.high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


def test_no_samples_have_no_figure() -> None:
    assert proportion_with_interval([]) is None
    assert mean_with_bootstrap_interval([]) is None
    assert independent_difference(None, proportion_with_interval([True])) is None


def test_the_interval_of_a_mean_is_that_of_the_normal_for_many_samples() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 4000)
    figure = mean_with_bootstrap_interval(values.tolist())
    assert figure is not None
    half = 1.96 * values.std() / len(values) ** 0.5
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_mean_is_the_same_in_every_run_and_of_one_value_has_no_interval() -> None:
    assert mean_with_bootstrap_interval([1.0, 2.0, 4.0]) == mean_with_bootstrap_interval(
        [1.0, 2.0, 4.0]
    )
    assert mean_with_bootstrap_interval([3.5]) == Estimate(3.5, None, None, 1)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    # Newcombe (1998, Statistics in Medicine 17, 873-890), Table II, method 10: 56/70 - 48/80.
    one = proportion_with_interval([True] * 56 + [False] * 14)
    other = proportion_with_interval([True] * 48 + [False] * 32)
    change = independent_difference(one, other)
    assert change is not None
    assert change.value == pytest.approx(0.2)
    assert change.low == pytest.approx(0.0524, abs=5e-5)
    assert change.high == pytest.approx(0.3339, abs=5e-5)
    assert is_significant(change)
    assert not is_significant(Estimate(0.2, -0.01, 0.4, 10))
    assert not is_significant(Estimate(0.2))


def test_a_difference_without_intervals_is_a_number_alone() -> None:
    assert independent_difference(
        Estimate(3.0, None, None, 8), Estimate(1.0, 0.5, 1.5, 6)
    ) == Estimate(2.0, None, None, 6)


def fourfold(both: int, one: int, other: int, none: int) -> tuple[Estimate | None, Estimate | None]:
    first = [True] * both + [True] * one + [False] * other + [False] * none
    second = [True] * both + [False] * one + [True] * other + [False] * none
    return proportion_with_interval(first), proportion_with_interval(second)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe (1998, Statistics in Medicine 17, 2635-2650), method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Fagerland, Lydersen and Laake (2014, Statistics in Medicine 33, 2850-2875): Bentur's and
        # Cavo's patients before and after.
        ((1, 1, 7, 12), -0.507, -0.026),
        ((59, 6, 16, 80), -0.119, -0.005),
    ],
)
def test_a_difference_of_paired_shares_has_newcombes_interval(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    change = paired_difference(*fourfold(*table))
    assert change is not None
    assert change.low == pytest.approx(low, abs=5e-4)
    assert change.high == pytest.approx(high, abs=5e-4)
    assert change.count == sum(table)


def test_paired_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = width = unpaired_width = 0.0
    runs = 600
    for _ in range(runs):
        hard = rng.random(120) < 0.3
        one, other = (
            proportion_with_interval((rng.random(120) < np.where(hard, 0.3, 0.97)).tolist())
            for _ in "ab"
        )
        narrow, wide = paired_difference(one, other), independent_difference(one, other)
        assert narrow is not None
        assert wide is not None
        assert None not in (narrow.low, narrow.high, wide.low, wide.high)
        hits += not is_significant(narrow)
        width += (narrow.high or 0) - (narrow.low or 0)
        unpaired_width += (wide.high or 0) - (wide.low or 0)
    assert 0.93 <= hits / runs <= 0.98
    assert width < 0.9 * unpaired_width


def test_equal_flags_leave_room_for_chance() -> None:
    change = paired_difference(
        proportion_with_interval([True] * 30), proportion_with_interval([True] * 30)
    )
    assert change is not None
    assert change.value == 0
    assert change.low == pytest.approx(-0.1135, abs=5e-5)
    assert change.high == pytest.approx(0.1135, abs=5e-5)


def test_paired_means_differ_within_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.normal(0.0, 10.0, 200)
    values = [(scenes + shift + rng.normal(0, 0.5, 200)).tolist() for shift in (0.3, 0.0)]
    one, other = map(mean_with_bootstrap_interval, values)
    narrow, wide = paired_difference(one, other), independent_difference(one, other)
    assert narrow is not None
    assert wide is not None
    assert narrow.value == wide.value
    assert is_significant(narrow)
    assert not is_significant(wide)


def test_what_was_not_measured_keeps_its_place() -> None:
    figure = mean_with_bootstrap_interval([1.0, None, 4.0])
    assert figure is not None
    assert (figure.value, figure.count, figure.samples) == (2.5, 2, [1.0, None, 4.0])
    flags = proportion_with_interval([True, None, False, True])
    assert flags is not None
    assert (flags.value, flags.count, flags.samples) == (2 / 3, 3, [1, None, 0, 1])
    assert proportion_with_interval([None]) is None
    # A value that only one has counts for it, and for the draws in which it is.
    one = mean_with_bootstrap_interval([5.0, None, *range(20)])
    other = mean_with_bootstrap_interval([1.0, 3.0, *range(20)])
    change = paired_difference(one, other)
    assert change is not None
    assert one is not None
    assert other is not None
    assert change.value == pytest.approx(one.value - other.value)
    assert change.count == 21


def test_without_the_same_samples_the_wider_interval_stands() -> None:
    flags = [True, False] * 10
    one, other = proportion_with_interval(flags), proportion_with_interval([*reversed(flags)])
    assert paired_difference(one, proportion_with_interval(flags[:-1])) == independent_difference(
        one, proportion_with_interval(flags[:-1])
    )
    assert paired_difference(one, Estimate(0.5, 0.3, 0.7, 20)) == independent_difference(
        one, Estimate(0.5, 0.3, 0.7, 20)
    )
    # Flags of which one could not be asked: which scenes are left depends on the pictures.
    missing = proportion_with_interval([None, *flags[1:]])
    assert paired_difference(missing, other) == independent_difference(missing, other)


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([1.0, 0.0, None, 1.0], "10-1"),
        ([28.414, None, -3.0], "28.414 - -3"),
        ([0.123456789, 1.0], "0.12346 1"),
        ([1.0], None),
        (None, None),
    ],
)
def test_samples_are_a_line_of_text(samples: list[float | None] | None, text: str | None) -> None:
    assert format_sample_values(samples) == text
    if text is not None and samples is not None:
        read = parse_sample_values(text)
        assert [None if s is None else round(s, 5) for s in samples] == read
