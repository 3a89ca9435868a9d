"""The objective against diffusers' schedulers and against the formulas of the papers."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from pydantic import ValidationError

from train.objective import Level, Objective, ObjectiveConfig, quantiles

SHAPE = (6, 4, 8, 8)
QUANTILES = torch.tensor([0.0, 0.1001, 0.3501, 0.5001, 0.7701, 0.9995])


def of(**settings: object) -> Objective:
    return Objective(ObjectiveConfig.model_validate(settings))


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SHAPE), torch.randn(SHAPE)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_terminal", [False, True])
def test_against_diffusers_noise_and_velocity(schedule: str, zero_terminal: bool) -> None:
    objective = of(beta_schedule=schedule, zero_terminal_snr=zero_terminal)
    scheduler = DDPMScheduler(**objective.config.scheduler_config())
    latents, noise = drawn()
    level = objective.level(QUANTILES)

    assert level.timestep_B.tolist() == [0, 100, 350, 500, 770, 999]
    noisy = scheduler.add_noise(latents, noise, level.timestep_B)
    velocity = scheduler.get_velocity(latents, noise, level.timestep_B)
    torch.testing.assert_close(objective.noisy(latents, noise, level), noisy, rtol=0, atol=2e-6)
    torch.testing.assert_close(objective.target(latents, noise, level), velocity, rtol=0, atol=2e-6)


def test_against_diffusers_flow_matching() -> None:
    objective = of(prediction="flow")
    latents, noise = drawn()
    level = objective.level(QUANTILES)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.timesteps, scheduler.sigmas = level.timestep_B, level.sigma_B

    noisy = scheduler.scale_noise(latents, level.timestep_B, noise)
    torch.testing.assert_close(objective.noisy(latents, noise, level), noisy, rtol=0, atol=1e-6)
    torch.testing.assert_close(objective.target(latents, noise, level), noise - latents)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_every_prediction_gives_the_clean_latents_back(prediction: str) -> None:
    objective = of(prediction=prediction)
    latents, noise = (value.double() for value in drawn())
    level = objective.level(QUANTILES[1:])
    level = Level(level.timestep_B, level.alpha_B.double(), level.sigma_B.double())
    latents, noise = latents[1:], noise[1:]
    alpha, sigma = level.alpha_B.view(-1, 1, 1, 1), level.sigma_B.view(-1, 1, 1, 1)
    noisy = objective.noisy(latents, noise, level)
    output = objective.target(latents, noise, level)

    clean = {
        "epsilon": (noisy - sigma * output) / alpha,
        "v_prediction": alpha * noisy - sigma * output,
        "sample": output,
        "flow": noisy - sigma * output,
    }[prediction]
    torch.testing.assert_close(clean, latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_are_the_published_ones(prediction: str) -> None:
    objective = of(prediction=prediction, weight="min_snr", min_snr_gamma=5.0)
    level = objective.level(QUANTILES)
    scheduler = DDPMScheduler(**objective.config.scheduler_config())
    snr = compute_snr(scheduler, level.timestep_B)
    clamped = snr.clamp(max=5.0)
    published = {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}
    torch.testing.assert_close(objective.weight(level), published[prediction], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_min_snr_keeps_the_terminal_step_alive_under_zero_terminal_snr(prediction: str) -> None:
    objective = of(prediction=prediction, weight="min_snr", zero_terminal_snr=True)
    level = objective.level(torch.tensor([0.9999]))
    assert level.alpha_B.item() == 0
    torch.testing.assert_close(objective.weight(level), torch.ones(1))


def test_flow_min_snr_weighs_the_error_of_the_clean_latents() -> None:
    objective = of(prediction="flow", weight="min_snr", min_snr_gamma=2.0)
    t = torch.tensor([0.2, 0.5, 0.8])
    snr = ((1 - t) / t) ** 2
    expected = snr.clamp(max=2.0) * t**2
    torch.testing.assert_close(objective.weight(objective.level(t)), expected)


def test_losses_are_weighted_means_of_each_row() -> None:
    objective = of(weight="min_snr")
    level = objective.level(QUANTILES)
    output, target = drawn()
    expected = torch.stack([((output[i] - target[i]) ** 2).mean() for i in range(len(output))])
    torch.testing.assert_close(
        objective.losses(output, target, level), expected * objective.weight(level)
    )


def test_epsilon_with_zero_terminal_snr_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match=r"input is the noise itself.*prediction = 'v_pred"):
        of(prediction="epsilon", zero_terminal_snr=True)


def test_flow_with_zero_terminal_snr_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="already ends in pure noise"):
        of(prediction="flow", zero_terminal_snr=True)


def test_stratified_quantiles_fill_each_stratum_once() -> None:
    drawn = quantiles(ObjectiveConfig(), seed=1, step=4, slots=list(range(16)), batch_size=16)
    assert sorted((drawn * 16).long().tolist()) == list(range(16))


def test_quantiles_depend_on_the_slot_and_not_on_its_company() -> None:
    config = ObjectiveConfig()
    together = quantiles(config, 1, 4, list(range(8)), 8)
    apart = torch.cat([quantiles(config, 1, 4, [6, 7], 8), quantiles(config, 1, 4, [2], 8)])
    assert torch.equal(apart, together[[6, 7, 2]])
    assert not torch.equal(together, quantiles(config, 1, 5, list(range(8)), 8))


def test_logit_normal_density_has_its_mean_and_spread() -> None:
    objective = of(prediction="flow", density="logit_normal", logit_mean=-0.5, logit_std=0.7)
    t = objective.level((torch.arange(4000) + 0.5) / 4000).sigma_B.double()
    logits = torch.log(t / (1 - t))
    assert abs(logits.mean().item() + 0.5) < 0.01
    assert abs(logits.std().item() - 0.7) < 0.01
