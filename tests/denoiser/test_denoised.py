"""The clean picture that a prediction stands for, as the schedulers themselves see it."""

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from pipelines.loop import sample_latents
from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.conditioning.run_state import RunState
from t2i.denoiser.predicted_original import compute_x0_coefficients_per_step
from t2i.denoiser.schedulers import build_scheduler, scale_model_input
from t2i.denoiser.timesteps import set_timesteps
from tests.tiny import tiny_scheduler

SHAPE = (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("name", "predicted"),
    [
        *((name, "epsilon") for name in ("ddim", "ddpm", "euler", "euler a", "euler karras")),
        *((name, "v_prediction") for name in ("ddim", "ddpm", "euler", "euler a", "euler karras")),
        # diffusers' Euler samplers have no such models.
        *((name, "sample") for name in ("ddim", "ddpm")),
    ],
)
def test_the_scheduler_sees_the_same_clean_picture(name, predicted):
    stepper = build_scheduler(name, tiny_scheduler(prediction_type=predicted).config)
    set_timesteps(stepper, 7, torch.device("cpu"))
    for timestep, (a, b) in zip(
        stepper.timesteps, compute_x0_coefficients_per_step(stepper), strict=True
    ):
        latents, prediction = torch.randn(SHAPE), torch.randn(SHAPE)
        scale_model_input(stepper, latents, timestep)
        seen = stepper.step(prediction, timestep, latents).pred_original_sample
        # Euler interpolates sigmas in float32, and sigma reaches 14.
        torch.testing.assert_close(a * latents + b * prediction, seen, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["heun", "dpm2", "dpm++ 2m", "unipc", "pndm"])
def test_noised_latents_with_their_own_noise_give_back_the_picture(name):
    stepper = build_scheduler(name, tiny_scheduler().config)
    set_timesteps(stepper, 6, torch.device("cpu"))
    picture, noise = torch.randn(2, *SHAPE, dtype=torch.float64)
    alphas2 = tiny_scheduler().alphas_cumprod.double()
    log_ratios = ((1 - alphas2) / alphas2).log() / 2
    for timestep, (a, b) in zip(
        stepper.timesteps, compute_x0_coefficients_per_step(stepper), strict=True
    ):
        # Between two training steps the noise level is interpolated as these samplers do.
        below, above = int(timestep), min(int(timestep) + 1, 999)
        ratio = torch.lerp(log_ratios[below], log_ratios[above], float(timestep) - below).exp()
        latents = picture + ratio * noise
        if name in ("dpm++ 2m", "unipc", "pndm"):
            latents = latents / (1 + ratio**2).sqrt()
        torch.testing.assert_close(a * latents + b * noise, picture, rtol=0, atol=1e-6)


def guided(predicted, space):
    """A run under adaptive projection of one model, whatever it says its prediction is."""
    torch.manual_seed(5)
    stepper = build_scheduler("ddim", tiny_scheduler(prediction_type=predicted).config)
    set_timesteps(stepper, 5, torch.device("cpu"))
    guidance = AdaptiveProjected(6.0, space=space)
    text_BTD = torch.zeros(1, 3, 5)
    told = stack_branches_to_conditioning(
        {branch: text_BTD + i for i, branch in enumerate(guidance.possible_branches)}
    )
    latents_BCHW = torch.randn(SHAPE, dtype=torch.float64)
    run = RunState(latents_BCHW, told, guidance, stepper.timesteps)
    run.x0_coefficients = compute_x0_coefficients_per_step(stepper)

    def denoise(latents_BCHW, timestep, told):
        noise_BCHW = torch.sin(3 * latents_BCHW + told.text_BTD[:, :1, :1, None])
        alpha2 = stepper.alphas_cumprod[int(timestep)].double()
        alpha, sigma = alpha2.sqrt(), (1 - alpha2).sqrt()
        clean_BCHW = (latents_BCHW - sigma * noise_BCHW) / alpha
        return noise_BCHW if predicted == "epsilon" else alpha * noise_BCHW - sigma * clean_BCHW

    return sample_latents(run, denoise, stepper)


@torch.no_grad()
def test_projection_of_clean_pictures_is_the_same_whatever_the_model_predicts():
    epsilon, v = (guided(predicted, "denoised") for predicted in ("epsilon", "v_prediction"))
    torch.testing.assert_close(epsilon, v, rtol=1e-5, atol=1e-5)
    epsilon, v = (guided(predicted, "prediction") for predicted in ("epsilon", "v_prediction"))
    assert (epsilon - v).abs().max() > 1e-2


def test_flows_know_their_clean_picture():
    stepper = FlowMatchEulerDiscreteScheduler(shift=3.0)
    set_timesteps(stepper, 5, torch.device("cpu"))
    picture, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    for sigma, (a, b) in zip(
        stepper.sigmas[:-1], compute_x0_coefficients_per_step(stepper), strict=True
    ):
        latents = (1 - sigma) * picture + sigma * noise
        torch.testing.assert_close(a * latents + b * (noise - picture), picture)


def test_v_prediction_reaches_from_pure_noise():
    stepper = build_scheduler(
        "ddim",
        tiny_scheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ).config,
    )
    set_timesteps(stepper, 4, torch.device("cpu"))
    assert compute_x0_coefficients_per_step(stepper)[0] == pytest.approx((0.0, -1.0), abs=1e-6)


def test_a_scheduler_that_does_not_say_gives_no_factors():
    stepper = EDMEulerScheduler()
    set_timesteps(stepper, 4, torch.device("cpu"))
    assert compute_x0_coefficients_per_step(stepper) == ()
