"""Schedulers that step along a path instead of a noise schedule.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.inversion.noise_levels import SamplerStepCoefficients
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.denoiser.schedulers import Scheduler

ResidualReader = Callable[[int], Tensor]
"""Number of a step -> the residual (1, C, H, W) that is added to the latents after it."""


class FixedTimestepsScheduler:
    """Base class of schedulers whose timesteps are given in advance, one for each step of
    a run.

    It has what the sampling loop and the pipelines read of a scheduler; subclasses step.

    step_order : for each timestep, the step of the sampler's own run, where the order is another
    """

    step_order: Sequence[int] | None = None

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, like: Scheduler, timesteps: Sequence[float]) -> None:
        kept = ("num_train_timesteps", "prediction_type")
        self.config: Any = {name: like.config[name] for name in kept if name in like.config}
        if type(like).__name__.startswith("FlowMatch"):
            self.config["prediction_type"] = "flow_prediction"
        self.alphas_cumprod = getattr(like, "alphas_cumprod", None)
        whole = all(timestep == int(timestep) for timestep in timesteps)
        self.timesteps = torch.tensor(timesteps, dtype=torch.int64 if whole else torch.float32)
        self.index = 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        """Begin a run at the first of the given timesteps; `num_inference_steps` is ignored."""
        self.timesteps = self.timesteps.to(device)
        self.index = 0


class PrecomputedStepScheduler(FixedTimestepsScheduler):
    """Scheduler of the targets of an edit: each step applies precomputed coefficients and then adds
    the source path's residual, if there is one.
    """

    def __init__(
        self,
        like: Scheduler,
        steps: Sequence[SamplerStepCoefficients],
        residual_at: ResidualReader | None = None,
    ) -> None:
        super().__init__(like, [step.timestep for step in steps])
        self.steps = steps
        self.residual_at = residual_at
        self.previous_BCHW: Tensor | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the latents (B, C, H, W) after this step, in a tuple."""
        moved_BCHW = self.step_without_residual(self.steps[self.index], model_output, sample)
        if self.residual_at is not None:
            moved_BCHW = moved_BCHW + self.residual_at(self.index).to(moved_BCHW)
        self.previous_BCHW = sample
        self.index += 1
        return (moved_BCHW.to(sample.dtype),)

    def step_without_residual(
        self, step: SamplerStepCoefficients, prediction_BCHW: Tensor, latents_BCHW: Tensor
    ) -> Tensor:
        """Return the latents (B, C, H, W), at least float32, after a step without its residual."""
        moved_BCHW = apply_step_coefficients(step, prediction_BCHW, latents_BCHW)
        if step.previous:
            assert self.previous_BCHW is not None
            moved_BCHW = moved_BCHW + step.previous * to_at_least_float32(self.previous_BCHW)
        return moved_BCHW


class AddResidualsCallback(StepCallback):
    """Step callback that adds a path's residuals to the latents after each step of any scheduler.

    residual_at : number of a step -> (1, C, H, W)
    """

    def __init__(self, residual_at: ResidualReader) -> None:
        self.residual_at = residual_at

    def after_step(self, run: RunState) -> None:
        """Add the path's residual of this step to the run's latents."""
        moved_BCHW = to_at_least_float32(run.latents_BCHW)
        moved_BCHW = moved_BCHW + self.residual_at(run.step).to(moved_BCHW)
        run.latents_BCHW = moved_BCHW.to(run.latents_BCHW)


class PinnedScheduler(PrecomputedStepScheduler):
    """Scheduler of the source: each step returns the path's latents, and keeps how far the model's
    own step misses them.

    last_residual_1CHW : of the last step, path minus own step; None before the first
    cut_off_1CHW : what `max_last_residual` cut off the run's last residual; None before that
    """

    def __init__(
        self,
        like: Scheduler,
        steps: Sequence[SamplerStepCoefficients],
        latents: Sequence[Tensor],
        max_last_residual: float | None = None,
    ) -> None:
        super().__init__(like, steps)
        self.latents = latents
        self.max_last_residual = max_last_residual
        self.last_residual_1CHW: Tensor | None = None
        self.cut_off_1CHW: Tensor | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the path's next latents (1, C, H, W), in a tuple, and keep the residual."""
        end_1CHW = self.latents[self.index + 1]
        moved_1CHW = self.step_without_residual(self.steps[self.index], model_output, sample)
        residual_1CHW = to_at_least_float32(end_1CHW).to(moved_1CHW.device) - moved_1CHW
        is_last = self.index == len(self.steps) - 1
        if is_last and self.max_last_residual is not None:
            norm = float(residual_1CHW.norm())
            whole_1CHW = residual_1CHW
            residual_1CHW = whole_1CHW * min(1.0, self.max_last_residual / max(norm, 1e-12))
            self.cut_off_1CHW = whole_1CHW - residual_1CHW
        self.last_residual_1CHW = residual_1CHW
        self.previous_BCHW = sample
        self.index += 1
        return (end_1CHW.to(sample),)


class SourceAndTargetsScheduler(PrecomputedStepScheduler):
    """Scheduler of a batch whose first row is the source of the others: that row steps along the
    path, and what its own step misses of the path is added to the steps of all rows.

    So one run has source and targets. It has all that diffusers' pipelines read of a scheduler of
    flow matching; latents have any shape with the batch first.

    latents : of the path, one row each
    """

    def __init__(
        self, like: Scheduler, steps: Sequence[SamplerStepCoefficients], latents: Sequence[Tensor]
    ) -> None:
        super().__init__(like, steps)
        self.latents = latents

    @property
    def step_index(self) -> int:
        """Number of the next step of the run, counted from 0."""
        return self.index

    @property
    def begin_index(self) -> int:
        """Number of the run's first step, as diffusers' pipelines read it: 0."""
        return 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Ignore the given step, as diffusers' pipelines call this: a run begins with its first."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: object = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run; its timesteps are those of the path, whatever the pipeline asks for."""
        super().set_timesteps(len(self.steps), torch.device(device or "cpu"))

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the latents after this step, the source's first, in a tuple."""
        moved = self.step_without_residual(self.steps[self.index], model_output, sample)
        source = self.latents[self.index + 1].to(moved)
        targets = moved[1:] + (source - moved[:1])
        self.previous_BCHW = sample
        self.index += 1
        return (torch.cat([source, targets]).to(sample.dtype),)


def apply_step_coefficients(
    step: SamplerStepCoefficients, prediction_BCHW: Tensor, latents_BCHW: Tensor
) -> Tensor:
    """Apply the coefficients of a sampler step to latents x: return clean D + latents x, in at
    least float32.
    """
    f, g = step.denoised
    of_latents = step.clean * f + step.latents
    of_prediction = step.clean * g
    return of_latents * to_at_least_float32(latents_BCHW) + of_prediction * to_at_least_float32(
        prediction_BCHW
    )


def to_at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged where its dtype is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
