"""Schedules of full passes."""

import pytest

from t2i.denoiser.caches.pass_schedules import list_power_passes, list_uniform_passes
from t2i.errors import ArgumentError


def test_every_third_pass_begins_with_the_first():
    assert list_uniform_passes(3, 8) == (0, 3, 6)


@pytest.mark.parametrize(
    ("run", "passes"),
    [
        # As DeepCache's own code counts them, sample_from_quad_center at commit 1691a3ab.
        ((5, 0.3, 1.4, 50), (0, 5, 9, 13, 17, 21, 26, 31, 37, 43)),
        ((5, 0.2, 1.2, 50), (0, 5, 9, 12, 16, 21, 26, 32, 38, 43)),
        ((5, 0.4, 1.4, 50), (0, 6, 10, 15, 19, 23, 27, 32, 38, 43)),
        ((10, 0.2, 1.2, 50), (0, 9, 16, 26, 38)),
        ((3, 0.3, 1.4, 10), (0, 3, 4, 6)),
    ],
)
def test_the_power_schedule_is_that_of_the_published_code(run, passes):
    assert list_power_passes(*run) == passes


def test_every_power_schedule_begins_with_the_first_pass_and_has_distinct_ones_of_the_run():
    found = refused = 0
    for num_passes in (2, 5, 9, 10, 20, 30, 50, 99):
        for every in (2, 3, 5):
            for centre in (0.0, 0.2, 0.3, 0.5, 0.9):
                try:
                    passes = list_power_passes(every, centre, 1.4, num_passes)
                except ArgumentError:
                    refused += 1
                    continue
                found += 1
                assert passes[0] == 0
                assert list(passes) == sorted(set(passes))
                assert passes[-1] < num_passes
                assert len(passes) == -(-num_passes // every)
    assert found > 5 * refused


def test_a_run_that_no_power_fits_is_refused():
    with pytest.raises(ArgumentError, match="no power down to 1 gives 5 distinct passes"):
        list_power_passes(2, 0.5, 1.4, 10)
