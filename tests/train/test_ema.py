"""Averages of the weights against their closed forms, and what a resumed one goes on with."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from train.optim.ema import EMA, MAX_EMA_LENGTH, EMAConfig, compute_gamma_from_length

POWER = EMAConfig(kind="power", lengths=(0.05, 0.1, 0.25))


def walk(steps: int, seed: int = 0) -> Tensor:
    """Weights (steps, 6) of a random walk that starts far from zero."""
    torch.manual_seed(seed)
    return 3 + 0.01 * torch.randn(steps, 6).cumsum(0)


def followed(config: EMAConfig, path: Tensor) -> EMA:
    ema = EMA({"w": torch.full_like(path[0], 77.0)}, config)
    for number, weights in enumerate(path, 1):
        ema.update({"w": weights}, number)
    return ema


@pytest.mark.parametrize("length", [0.005, 0.05, 0.1, 0.25, 0.288])
def test_gamma_gives_the_profile_the_length_asked_for(length: float) -> None:
    # mean and standard deviation of the profile s^gamma on [0, 1], from its moments
    gamma = compute_gamma_from_length(length)
    first, second = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(second - first**2) == pytest.approx(length, rel=1e-9)
    assert gamma > 0


def test_gamma_of_the_lengths_of_the_paper() -> None:
    # "sigma_rel = 0.05 and 0.10, gamma = 16.97 and 6.94": section 3.2
    assert compute_gamma_from_length(0.05) == pytest.approx(16.97, abs=0.01)
    assert compute_gamma_from_length(0.10) == pytest.approx(6.94, abs=0.01)
    assert compute_gamma_from_length(MAX_EMA_LENGTH - 1e-12) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("length", POWER.lengths)
def test_a_power_average_weighs_each_step_by_the_integral_of_its_profile(length: float) -> None:
    path = walk(400)
    n = torch.arange(401, dtype=torch.float64) / 400
    share = (n ** (compute_gamma_from_length(length) + 1)).diff()
    assert share.sum().item() == pytest.approx(1)
    ema = followed(POWER, path)
    expected = share @ path.double()
    torch.testing.assert_close(
        ema.averages[f"{length:g}/"]["w"].double(), expected, rtol=0, atol=2e-6
    )


def test_the_first_power_average_is_the_first_weights_and_not_what_was_before() -> None:
    path = walk(1)
    assert torch.equal(followed(POWER, path).averaged_weights["w"], path[0])


def test_the_first_length_is_the_one_in_use() -> None:
    ema = followed(POWER, walk(50))
    parameter = nn.Parameter(torch.zeros(6))
    with ema.using_averaged_weights({"w": parameter}):
        assert torch.equal(parameter, ema.averages["0.05/"]["w"])
    assert torch.equal(parameter, torch.zeros(6))


@pytest.mark.parametrize("kind", ["decay", "power", "none"])
def test_an_average_goes_on_from_its_state_bit_for_bit(kind: str) -> None:
    config, path = EMAConfig.model_validate({"kind": kind, "decay": 0.9}), walk(60)
    whole = followed(config, path)
    first = followed(config, path[:23])
    second = EMA({"w": torch.zeros(6)}, config)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for number, weights in enumerate(path[23:], 24):
        second.update({"w": weights}, number)
    assert whole.state_dict().keys() == second.state_dict().keys()
    assert len(whole.state_dict()) == {"decay": 1, "power": 2, "none": 0}[kind]
    assert all(
        torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items()
    )


def test_the_state_of_a_plain_average_is_named_as_the_weights() -> None:
    assert followed(EMAConfig(), walk(2)).state_dict().keys() == {"w"}


def test_without_an_average_the_weights_are_used_as_they_are() -> None:
    ema = followed(EMAConfig(kind="none"), walk(3))
    parameter = nn.Parameter(torch.ones(6))
    with ema.using_averaged_weights({"w": parameter}):
        assert torch.equal(parameter, torch.ones(6))
    assert ema.averaged_weights == {}


def test_weights_lent_come_back_after_an_exception() -> None:
    parameter = nn.Parameter(torch.ones(6))
    ema = followed(EMAConfig(), walk(3))

    def fail() -> None:
        with ema.using_averaged_weights({"w": parameter}):
            raise RuntimeError("while drawing")

    with pytest.raises(RuntimeError, match="while drawing"):
        fail()
    assert torch.equal(parameter, torch.ones(6))


@pytest.mark.parametrize("lengths", [(), (0.0,), (0.05, 0.3), (-0.1, 0.1)])
def test_lengths_that_no_average_can_have_are_refused(lengths: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="lengths"):
        EMAConfig(kind="power", lengths=lengths)
