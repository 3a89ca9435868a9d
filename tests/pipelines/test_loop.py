"""Sampling loop, guidance and step callbacks with denoisers whose prediction is known."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.loop import sample_latents
from t2i.conditioning.conditioning import stack_branches_to_conditioning
from t2i.conditioning.guidance import ClassifierFree, Conditional
from t2i.conditioning.run_state import RunState
from t2i.denoiser.schedulers import build_scheduler, scale_initial_noise
from t2i.denoiser.timesteps import set_timesteps
from tests.tiny import tiny_scheduler

SHAPE = (2, 4, 8, 8)


def start(name, guidance, steps=6, dtype=torch.float32):
    """A run of two pictures and its scheduler."""
    stepper = build_scheduler(name, tiny_scheduler(set_alpha_to_one=True).config)
    set_timesteps(stepper, steps, torch.device("cpu"))
    latents_BCHW = torch.randn(SHAPE, dtype=dtype) * stepper.init_noise_sigma
    text_BTD = torch.zeros(2, 3, 5)
    told = stack_branches_to_conditioning(
        {branch: text_BTD + i for i, branch in enumerate(guidance.possible_branches)}
    )
    return RunState(latents_BCHW, told, guidance, stepper.timesteps), stepper


class Recorder:
    """A denoiser that answers 0, and a step callback, both taking notes."""

    def __init__(self):
        self.rows, self.notes = [], []

    def __call__(self, latents_BCHW, timestep, told):
        assert len(latents_BCHW) == len(told.text_BTD)
        self.rows.append(told.row_branches)
        self.notes.append("pass")
        return torch.zeros_like(latents_BCHW)

    def before_pass(self, run):
        self.notes.append(f"before {run.step}")

    def after_step(self, run):
        self.notes.append(f"after {run.step}")


@torch.no_grad()
def test_a_flow_that_knows_the_picture_reaches_it():
    """Closed form: towards one point the velocity is (latents - point) / t all along."""
    stepper = FlowMatchEulerDiscreteScheduler()
    set_timesteps(stepper, 5, torch.device("cpu"))
    goal_BCHW = torch.randn(SHAPE)
    noise_BCHW = scale_initial_noise(stepper, torch.randn(SHAPE))
    told = stack_branches_to_conditioning({"cond": torch.zeros(2, 3, 5)})

    def denoise(latents_BCHW, timestep, told):
        return (latents_BCHW - goal_BCHW) / (timestep / 1000)

    run = RunState(noise_BCHW, told, Conditional(), stepper.timesteps)
    torch.testing.assert_close(sample_latents(run, denoise, stepper), goal_BCHW, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpm++ 2m", "unipc", "dpm2"])
@torch.no_grad()
def test_a_denoiser_that_knows_the_picture_reaches_it(name):
    """Closed form: all of the data is one point, so the noise in any latents is known."""
    run, stepper = start(name, Conditional(), steps=8, dtype=torch.float64)
    goal_BCHW = torch.randn(SHAPE, dtype=torch.float64)
    alphas = tiny_scheduler().alphas_cumprod.double()

    def denoise(latents_BCHW, timestep, told):
        # Between two training steps the signal is interpolated as these samplers do.
        below, above = int(timestep), min(int(timestep) + 1, 999)
        log_sigma = ((1 - alphas) / alphas).log() / 2
        sigma = torch.lerp(log_sigma[below], log_sigma[above], float(timestep) - below).exp()
        alpha = 1 / (1 + sigma**2)
        return (latents_BCHW - alpha.sqrt() * goal_BCHW) / (1 - alpha).sqrt()

    found_BCHW = sample_latents(run, denoise, stepper)
    error = (found_BCHW - goal_BCHW).abs().max().item()
    assert error < 1e-3, f"{name} misses the picture by {error}"


@torch.no_grad()
def test_each_branch_hears_its_own_text_and_guidance_mixes_them():
    run, stepper = start("ddim", ClassifierFree(3.0))
    first_BCHW = run.latents_BCHW

    def denoise(latents_BCHW, timestep, told):
        # uncond rows hear 0 and answer 0, cond rows hear 1 and answer 1; guided: 3.
        return told.text_BTD[:, :1, :1, None].expand(-1, *SHAPE[1:])

    guided_BCHW = sample_latents(run, denoise, stepper)
    alone, stepper = start("ddim", Conditional())
    alone = replace(alone, latents_BCHW=first_BCHW)
    three_BCHW = sample_latents(alone, lambda x, t, told: torch.full_like(x, 3.0), stepper)
    assert torch.equal(guided_BCHW, three_BCHW)


@torch.no_grad()
def test_without_guidance_each_pass_has_one_row_per_picture():
    run, stepper = start("ddim", Conditional())
    recorder = Recorder()
    sample_latents(run, recorder, stepper)
    assert recorder.rows == [("cond", "cond")] * 6


@torch.no_grad()
def test_a_guidance_of_one_class_may_leave_branches_out_at_some_steps():
    @dataclass(frozen=True)
    class EarlyOnly:
        """Kynkaanniemi et al. (2024) in four lines: the loop knows nothing of it."""

        possible_branches: ClassVar = ("uncond", "cond")

        def branches(self, run):
            return self.possible_branches if run.step < 2 else ("cond",)

        def combine(self, predictions, run):
            mixed = ClassifierFree(3.0) if "uncond" in predictions else Conditional()
            return mixed.combine(predictions, run)

    run, stepper = start("ddim", EarlyOnly())
    recorder = Recorder()
    sample_latents(run, recorder, stepper)
    assert recorder.rows == [("uncond", "uncond", "cond", "cond")] * 2 + [("cond", "cond")] * 4


@torch.no_grad()
def test_step_callbacks_come_before_each_pass_and_after_each_step():
    run, stepper = start("ddim", Conditional(), steps=2)
    recorder = Recorder()
    sample_latents(run, recorder, stepper, step_callbacks=[recorder])
    assert recorder.notes == ["before 0", "pass", "after 0", "before 1", "pass", "after 1"]


@torch.no_grad()
def test_a_sampler_that_asks_twice_a_step_takes_two_turns():
    run, stepper = start("heun", Conditional(), steps=3)
    recorder = Recorder()
    sample_latents(run, recorder, stepper, step_callbacks=[recorder])
    assert run.num_steps == len(recorder.rows) == 5


@torch.no_grad()
def test_a_step_callback_may_put_other_latents_in_place():
    class Wipe(Recorder):
        def after_step(self, run):
            run.latents_BCHW = torch.zeros_like(run.latents_BCHW)

    run, stepper = start("ddim", Conditional())
    assert not sample_latents(run, Recorder(), stepper, step_callbacks=[Wipe()]).any()


@torch.no_grad()
def test_a_step_callback_may_stop_the_run():
    class Stop(Recorder):
        def after_step(self, run):
            run.stop = run.step == 1

    run, stepper = start("ddim", Conditional())
    recorder = Recorder()
    latents_BCHW = sample_latents(run, recorder, stepper, step_callbacks=[Stop()])
    assert len(recorder.rows) == 2
    assert latents_BCHW is run.latents_BCHW


@torch.no_grad()
def test_an_exception_leaves_what_was_reached_in_the_run():
    class Cancel(Recorder):
        def before_pass(self, run):
            if run.step == 3:
                raise KeyboardInterrupt

    run, stepper = start("ddim", Conditional())
    first_BCHW = run.latents_BCHW
    with pytest.raises(KeyboardInterrupt):
        sample_latents(run, Recorder(), stepper, step_callbacks=[Cancel()])
    assert run.step == 3
    assert not torch.equal(run.latents_BCHW, first_BCHW)


def test_gradients_flow_where_they_are_enabled():
    run, stepper = start("ddim", ClassifierFree(3.0), steps=2)
    strength = torch.tensor(0.5, requires_grad=True)
    sample_latents(run, lambda x, t, told: x * strength, stepper).sum().backward()
    assert strength.grad is not None
    assert strength.grad != 0
