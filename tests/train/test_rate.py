"""The learning rate falls as often as it is told to."""

import math

import pytest

from train.optim.learning_rate import LearningRateScheduleConfig, compute_learning_rate_factor


def test_a_rate_of_several_cycles_starts_again_from_the_full_one() -> None:
    config = LearningRateScheduleConfig(decay="cosine", cycles=4, floor=0.2)
    found = [compute_learning_rate_factor(step, 400, config) for step in range(400)]
    once = [0.2 + 0.8 * (0.5 + 0.5 * math.cos(math.pi * step / 100)) for step in range(100)]
    assert found == pytest.approx(once * 4, abs=1e-12)
    assert compute_learning_rate_factor(400, 400, config) == pytest.approx(0.2)


def test_cycles_share_the_steps_in_which_the_rate_falls() -> None:
    config = LearningRateScheduleConfig(decay="linear", decay_share=0.5, cycles=2, warmup=9)
    assert compute_learning_rate_factor(0, 200, config) == pytest.approx(0.1)
    assert [
        compute_learning_rate_factor(step, 200, config) for step in (99, 100, 125, 150, 175)
    ] == [
        1,
        1,
        0.5,
        1,
        0.5,
    ]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_one_cycle_falls_once(decay: str) -> None:
    config = LearningRateScheduleConfig.model_validate({"decay": decay})
    found = [compute_learning_rate_factor(step, 50, config) for step in range(51)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0, abs=1e-12)
