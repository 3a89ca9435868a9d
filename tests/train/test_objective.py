"""The objective against diffusers' schedulers and against the formulas of the papers."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from pydantic import ValidationError

from train.objective.losses import (
    compute_pseudo_huber_loss_of_error,
    compute_row_means,
    compute_smooth_l1_loss_of_error,
    pool_loss_weights,
)
from train.objective.objective import (
    NoiseLevel,
    Objective,
    ObjectiveConfig,
    add_offset_noise,
    perturb_input_noise,
    sample_stratified_quantiles,
)

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
    scheduler = DDPMScheduler(**objective.config.build_scheduler_config())
    latents, noise = drawn()
    level = objective.noise_level_at_quantile(QUANTILES)

    assert level.timestep_B.tolist() == [0, 100, 350, 500, 770, 999]
    noisy = scheduler.add_noise(latents, noise, level.timestep_B)
    velocity = scheduler.get_velocity(latents, noise, level.timestep_B)
    torch.testing.assert_close(objective.add_noise(latents, noise, level), noisy, rtol=0, atol=2e-6)
    torch.testing.assert_close(
        objective.compute_prediction_target(latents, noise, level), velocity, rtol=0, atol=2e-6
    )


def test_against_diffusers_flow_matching() -> None:
    objective = of(prediction="flow")
    latents, noise = drawn()
    level = objective.noise_level_at_quantile(QUANTILES)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.timesteps, scheduler.sigmas = level.timestep_B, level.sigma_B

    noisy = scheduler.scale_noise(latents, level.timestep_B, noise)
    torch.testing.assert_close(objective.add_noise(latents, noise, level), noisy, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        objective.compute_prediction_target(latents, noise, level), noise - latents
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_every_prediction_gives_the_clean_latents_back(prediction: str) -> None:
    objective = of(prediction=prediction)
    latents, noise = (value.double() for value in drawn())
    level = objective.noise_level_at_quantile(QUANTILES[1:])
    level = NoiseLevel(level.timestep_B, level.alpha_B.double(), level.sigma_B.double())
    latents, noise = latents[1:], noise[1:]
    alpha, sigma = level.alpha_B.view(-1, 1, 1, 1), level.sigma_B.view(-1, 1, 1, 1)
    noisy = objective.add_noise(latents, noise, level)
    output = objective.compute_prediction_target(latents, noise, level)

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
    level = objective.noise_level_at_quantile(QUANTILES)
    scheduler = DDPMScheduler(**objective.config.build_scheduler_config())
    snr = compute_snr(scheduler, level.timestep_B)
    clamped = snr.clamp(max=5.0)
    published = {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}
    torch.testing.assert_close(
        objective.compute_loss_weight(level), published[prediction], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_min_snr_keeps_the_terminal_step_alive_under_zero_terminal_snr(prediction: str) -> None:
    objective = of(prediction=prediction, weight="min_snr", zero_terminal_snr=True)
    level = objective.noise_level_at_quantile(torch.tensor([0.9999]))
    assert level.alpha_B.item() == 0
    torch.testing.assert_close(objective.compute_loss_weight(level), torch.ones(1))


def test_flow_min_snr_weighs_the_error_of_the_clean_latents() -> None:
    objective = of(prediction="flow", weight="min_snr", min_snr_gamma=2.0)
    t = torch.tensor([0.2, 0.5, 0.8])
    snr = ((1 - t) / t) ** 2
    expected = snr.clamp(max=2.0) * t**2
    torch.testing.assert_close(
        objective.compute_loss_weight(objective.noise_level_at_quantile(t)), expected
    )


def test_losses_are_weighted_means_of_each_row() -> None:
    objective = of(weight="min_snr")
    level = objective.noise_level_at_quantile(QUANTILES)
    output, target = drawn()
    expected = torch.stack([((output[i] - target[i]) ** 2).mean() for i in range(len(output))])
    torch.testing.assert_close(
        objective.compute_losses(output, target, level),
        expected * objective.compute_loss_weight(level),
    )


def test_epsilon_with_zero_terminal_snr_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match=r"input is the noise itself.*prediction = 'v_pred"):
        of(prediction="epsilon", zero_terminal_snr=True)


def test_flow_with_zero_terminal_snr_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="already ends in pure noise"):
        of(prediction="flow", zero_terminal_snr=True)


def test_stratified_quantiles_fill_each_stratum_once() -> None:
    drawn = sample_stratified_quantiles(
        ObjectiveConfig(), seed=1, step=4, slots=list(range(16)), batch_size=16
    )
    assert sorted((drawn * 16).long().tolist()) == list(range(16))


def test_quantiles_depend_on_the_slot_and_not_on_its_company() -> None:
    config = ObjectiveConfig()
    together = sample_stratified_quantiles(config, 1, 4, list(range(8)), 8)
    apart = torch.cat(
        [
            sample_stratified_quantiles(config, 1, 4, [6, 7], 8),
            sample_stratified_quantiles(config, 1, 4, [2], 8),
        ]
    )
    assert torch.equal(apart, together[[6, 7, 2]])
    assert not torch.equal(together, sample_stratified_quantiles(config, 1, 5, list(range(8)), 8))


def test_logit_normal_density_has_its_mean_and_spread() -> None:
    objective = of(prediction="flow", density="logit_normal", logit_mean=-0.5, logit_std=0.7)
    t = objective.noise_level_at_quantile((torch.arange(4000) + 0.5) / 4000).sigma_B.double()
    logits = torch.log(t / (1 - t))
    assert abs(logits.mean().item() + 0.5) < 0.01
    assert abs(logits.std().item() - 0.7) < 0.01


def published_c(schedule: str, c: float, level: NoiseLevel) -> torch.Tensor:
    """The three schedules as kohya's scripts write them, in float64, on diffusers' own table."""
    alpha2 = DDPMScheduler(**of().config.build_scheduler_config()).alphas_cumprod.double()
    sigmas = ((1 - alpha2) / alpha2).sqrt()[level.timestep_B]
    return {
        "constant": torch.full((6,), c, dtype=torch.float64),
        "exponential": c ** (level.timestep_B / 1000.0).double(),
        "snr": (1 - c) / (1 + sigmas) ** 2 + c,
    }[schedule]


@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
def test_huber_losses_are_the_published_ones(loss: str, schedule: str) -> None:
    objective = of(loss=loss, huber_c=0.2, huber_schedule=schedule)
    level = objective.noise_level_at_quantile(QUANTILES)
    output, target = drawn()
    c = published_c(schedule, 0.2, level).view(-1, 1, 1, 1)
    root = ((output - target).double().pow(2) + c**2).sqrt() - c
    published = (2 * c * root if loss == "huber" else 2 * root).flatten(1).mean(1)
    found = objective.compute_losses(output, target, level)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), published, rtol=1e-5, atol=0)


def test_huber_is_squared_near_zero_and_straight_far_away() -> None:
    c = torch.tensor([0.1])
    near, far = torch.full((1, 1, 1, 1), 1e-4), torch.full((1, 1, 1, 1), 1e4)
    torch.testing.assert_close(
        compute_pseudo_huber_loss_of_error(near, c), near**2, rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        compute_pseudo_huber_loss_of_error(far, c), 2 * 0.1 * far, rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        compute_smooth_l1_loss_of_error(near, c), near**2 / 0.1, rtol=1e-5, atol=0
    )
    torch.testing.assert_close(compute_smooth_l1_loss_of_error(far, c), 2 * far, rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_gradients_of_every_loss_are_its_finite_differences(loss: str) -> None:
    objective = of(loss=loss, weight="min_snr")
    level = objective.noise_level_at_quantile(QUANTILES[2:4])
    error = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = (
        torch.tensor([1.0, 0.3, 0.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    )

    def total(value: torch.Tensor) -> torch.Tensor:
        return compute_row_means(objective.compute_elementwise_loss(value, level), weight)

    assert torch.autograd.gradcheck(total, error)
    zero = torch.zeros_like(error, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(zero).sum(), zero)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_schedules_of_huber_start_at_squared_and_end_at_huber_c() -> None:
    nowhere = torch.zeros(1)
    for schedule in ("exponential", "snr"):
        objective = of(prediction="flow", loss="huber", huber_c=0.05, huber_schedule=schedule)
        error = torch.full((2, 1, 1, 1), 0.5)
        level = objective.noise_level_at_quantile(torch.tensor([0.0, 1.0]))
        ends = torch.tensor([1.0, 0.05]).view(-1, 1, 1, 1)
        torch.testing.assert_close(
            objective.compute_elementwise_loss(error, level),
            2 * ends * ((0.25 + ends**2).sqrt() - ends),
        )
    objective = of(zero_terminal_snr=True, loss="huber", huber_schedule="snr")
    level = objective.noise_level_at_quantile(torch.tensor([0.9999]))
    assert level.alpha_B.item() == 0
    assert objective.compute_losses(
        nowhere.view(1, 1, 1, 1) + 1, nowhere.view(1, 1, 1, 1), level
    ).isfinite()


def test_a_huber_c_that_would_rise_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"huber_c = 2.0 .*falls from 1 to it"):
        of(loss="huber", huber_c=2.0)
    assert of(loss="huber", huber_c=2.0, huber_schedule="constant").config.huber_c == 2


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
def test_a_masked_row_has_the_mean_over_the_places_that_count(loss: str) -> None:
    objective = of(loss=loss, weight="min_snr")
    level = objective.noise_level_at_quantile(QUANTILES)
    output, target = drawn()
    mask = (torch.rand(6, 1, 8, 8) < 0.3).float()
    counts = mask.bool().expand(SHAPE)
    error = objective.compute_elementwise_loss(output - target, level)
    expected = torch.stack([error[i][counts[i]].mean() for i in range(6)])
    torch.testing.assert_close(
        objective.compute_losses(output, target, level, mask),
        expected * objective.compute_loss_weight(level),
    )
    # what does not count is not looked at
    elsewhere = torch.where(counts, output, torch.full_like(output, 1e3))
    assert torch.equal(
        objective.compute_losses(elsewhere, target, level, mask),
        objective.compute_losses(output, target, level, mask),
    )


def test_a_mask_in_which_everything_counts_changes_nothing() -> None:
    objective, (output, target) = of(), drawn()
    level = objective.noise_level_at_quantile(QUANTILES)
    masked = objective.compute_losses(output, target, level, torch.ones(6, 1, 8, 8))
    torch.testing.assert_close(
        masked, objective.compute_losses(output, target, level), rtol=1e-6, atol=0
    )


def test_a_row_in_which_nothing_counts_has_no_loss_and_no_gradient() -> None:
    objective, (output, target) = of(), drawn()
    output.requires_grad_(True)
    mask = torch.ones(6, 1, 8, 8)
    mask[2] = 0
    loss = objective.compute_losses(
        output, target, objective.noise_level_at_quantile(QUANTILES), mask
    )
    loss.sum().backward()
    assert loss[2] == 0
    assert output.grad is not None
    assert output.grad[2].abs().max() == 0
    assert output.grad[3].abs().min() > 0


def test_a_mask_of_pixels_counts_latent_places_by_their_share() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :4, :8] = 1
    expected = torch.tensor([[0.5, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert torch.equal(pool_loss_weights(mask, 2, 2), expected)


def test_offset_noise_moves_channels_as_one_and_adds_its_variance() -> None:
    torch.manual_seed(0)
    noise, offset = torch.randn(400, 4, 8, 8), torch.randn(400, 4, 1, 1)
    moved = add_offset_noise(noise, offset, 0.5)
    torch.testing.assert_close(moved - noise, (0.5 * offset).expand_as(noise))
    assert moved.var().item() == pytest.approx(1 + 0.5**2, rel=0.02)
    assert moved.mean((2, 3)).var().item() == pytest.approx(0.25 + 1 / 64, rel=0.1)


def test_perturbed_input_keeps_the_target_of_the_clean_noise() -> None:
    torch.manual_seed(0)
    objective = of(prediction="epsilon")
    latents, noise, extra = torch.randn(3, 64, 4, 8, 8)
    level = objective.noise_level_at_quantile(torch.full((64,), 0.6))
    seen = perturb_input_noise(noise, extra, 0.1)
    noisy = objective.add_noise(latents, seen, level)
    clean = objective.add_noise(latents, noise, level)
    sigma = level.sigma_B.view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy - clean, sigma * 0.1 * extra, rtol=0, atol=1e-6)
    assert seen.var().item() == pytest.approx(1 + 0.1**2, rel=0.02)
    assert torch.equal(objective.compute_prediction_target(latents, noise, level), noise)


def test_by_default_the_loss_is_that_of_before_bit_for_bit() -> None:
    objective, (output, target) = of(weight="min_snr"), drawn()
    level = objective.noise_level_at_quantile(QUANTILES)
    before = objective.compute_loss_weight(level) * (output - target).pow(2).flatten(1).mean(1)
    assert torch.equal(objective.compute_losses(output, target, level), before)
