"""Figures and their intervals, against published values and closed forms."""

import numpy as np
import pytest

from t2i.evaluate.telling.chapter import Figure
from t2i.evaluate.telling.statistics import difference, is_sure, mean, share


def test_a_share_has_wilsons_interval() -> None:
    # Newcombe (1998, Statistics in Medicine 17, 857-872), Table I, method 3.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        figure = share([True] * right + [False] * (count - right))
        assert figure is not None
        assert (figure.value, figure.count) == (right / count, count)
        assert figure.low == pytest.approx(low, abs=5e-5)
        assert figure.high == pytest.approx(high, abs=5e-5)


def test_a_share_at_its_ends_is_no_point_and_stays_within_0_and_1() -> None:
    # The same table: 0 of 20 and 1 of 29.
    nothing, one = share([False] * 20), share([True] + [False] * 28)
    assert nothing is not None
    assert one is not None
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(0.1611, abs=5e-5))
    assert (one.low, one.high) == (
        pytest.approx(0.0061, abs=5e-5),
        pytest.approx(0.1718, abs=5e-5),
    )
    everything = share([True] * 20)
    assert everything is not None
    assert (everything.low, everything.high) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


def test_no_samples_have_no_figure() -> None:
    assert share([]) is None
    assert mean([]) is None
    assert difference(None, share([True])) is None


def test_the_interval_of_a_mean_is_that_of_the_normal_for_many_samples() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 4000)
    figure = mean(values.tolist())
    assert figure is not None
    half = 1.96 * values.std() / len(values) ** 0.5
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_mean_is_the_same_in_every_run_and_of_one_value_has_no_interval() -> None:
    assert mean([1.0, 2.0, 4.0]) == mean([1.0, 2.0, 4.0])
    assert mean([3.5]) == Figure(3.5, None, None, 1)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    # Newcombe (1998, Statistics in Medicine 17, 873-890), Table II, method 10: 56/70 - 48/80.
    one = share([True] * 56 + [False] * 14)
    other = share([True] * 48 + [False] * 32)
    change = difference(one, other)
    assert change is not None
    assert change.value == pytest.approx(0.2)
    assert change.low == pytest.approx(0.0524, abs=5e-5)
    assert change.high == pytest.approx(0.3339, abs=5e-5)
    assert is_sure(change)
    assert not is_sure(Figure(0.2, -0.01, 0.4, 10))
    assert not is_sure(Figure(0.2))


def test_a_difference_without_intervals_is_a_number_alone() -> None:
    assert difference(Figure(3.0, None, None, 8), Figure(1.0, 0.5, 1.5, 6)) == Figure(
        2.0, None, None, 6
    )
