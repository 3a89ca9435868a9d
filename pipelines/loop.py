"""The sampling loop that every pipeline uses.

B batch rows (here: images), C channels, H W latent size.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.denoiser.finite_checks import FiniteLatentsCheck
from t2i.denoiser.schedulers import Scheduler, scale_model_input

GeneratorOrList = torch.Generator | list[torch.Generator]
"""One for the whole batch, or one per image."""

DenoiseFunction = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents (rows, C, H, W), timestep, conditioning of the rows) -> prediction (rows, C, H, W)."""


def sample_latents(
    run: RunState,
    denoise: DenoiseFunction,
    scheduler: Scheduler,
    *,
    eta: float = 0.0,
    generator: GeneratorOrList | None = None,
    step_callbacks: Sequence[StepCallback] = (),
) -> Tensor:
    """Run the sampling loop over the timesteps of `run` and return its latents, (B, C, H, W).

    An exception, also Ctrl-C, leaves the loop at once; `run` then holds the state so far. Raises
    GenerationError where latents become NaN or infinite.
    """
    step_options = select_accepted_step_options(scheduler, eta=eta, generator=generator)

    def denoise_now(latents_BCHW: Tensor, conditioning: Conditioning) -> Tensor:
        scaled_BCHW = scale_model_input(scheduler, latents_BCHW, run.timestep)
        return denoise(scaled_BCHW, run.timestep, conditioning)

    run.denoise = denoise_now
    watch = FiniteLatentsCheck(run.num_steps)
    watch.record_inputs(run.latents_BCHW, run.conditioning.text_BTD)
    for step in range(run.num_steps):
        run.step = step
        for step_callback in step_callbacks:
            step_callback.before_pass(run)
        if run.stop:
            break

        prediction_BCHW = predict_guided(run, denoise, scheduler)
        run.latents_BCHW = scheduler.step(
            prediction_BCHW, run.timestep, run.latents_BCHW, **step_options, return_dict=False
        )[0]
        watch.record_step(run.latents_BCHW, step)

        for step_callback in step_callbacks:
            step_callback.after_step(run)
        watch.record_after_callbacks(run.latents_BCHW, step)
    watch.raise_first_problem()
    return run.latents_BCHW


def predict_guided(run: RunState, denoise: DenoiseFunction, scheduler: Scheduler) -> Tensor:
    """Return the guided prediction of this step, from one denoiser pass for all branches."""
    timestep = run.timestep
    conditioning = run.pass_conditioning
    branches = conditioning.branches

    # Scaling before repeating gives the same numbers and costs less.
    latents_BCHW = scale_model_input(scheduler, run.latents_BCHW, timestep)
    if len(branches) > 1:
        latents_BCHW = torch.cat([latents_BCHW] * len(branches))

    prediction_BCHW = denoise(latents_BCHW, timestep, conditioning)
    by_branch = dict(zip(branches, prediction_BCHW.chunk(len(branches)), strict=True))
    return run.guidance.combine(by_branch, run)


def select_accepted_step_options(scheduler: Scheduler, **options: Any) -> dict[str, Any]:
    """Return those of the keyword options, such as `eta` and `generator`, that the scheduler's
    `step` method accepts.
    """
    parameters = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in parameters}
