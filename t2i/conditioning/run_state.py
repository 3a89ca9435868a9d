"""The state of one run, and the protocols of what takes part in it: guidance and step callbacks.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from t2i.conditioning.conditioning import Branch, Conditioning


@dataclass(slots=True)
class RunState:
    """State of one generation: latents, conditioning, guidance and step, which callbacks may
    replace.

    A step is one turn of the sampling loop, that is one denoiser pass: second-order samplers take
    about twice as many steps as `num_inference_steps`.
    """

    latents_BCHW: Tensor
    conditioning: Conditioning
    """Every branch that the guidance may compute."""
    guidance: "Guidance"
    timesteps: Tensor
    step: int = 0
    stop: bool = False
    """Set by a step callback: the loop ends before its next pass."""
    guidance_memory: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that a guidance keeps from one step to the next."""
    x0_coefficients: Sequence[tuple[float, float]] = ()
    """For each step a and b of x0 = a * latents + b * prediction; empty if not computed."""
    skipped_calls: "SkippedCalls | None" = None
    """Modules that some passes leave out: those of the caches of the run."""
    denoise: Callable[[Tensor, Conditioning], Tensor] | None = None
    """An extra denoiser pass at this step's timestep, set by the loop:
    (latents (rows, C, H, W), conditioning of these rows) -> prediction (rows, C, H, W)."""

    @property
    def num_steps(self) -> int:
        """Number of steps of the run's sampling loop."""
        return len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        """Timestep of the run's current step."""
        return self.timesteps[self.step]

    @property
    def pass_conditioning(self) -> Conditioning:
        """Conditioning of this step's denoiser pass: the branches that guidance computes now."""
        return self.conditioning.select_branches(self.guidance.branches(self))


class SkippedCalls(Protocol):
    """Interface of what tells which modules of the denoiser the passes of a run leave out."""

    @property
    def description(self) -> str:
        """Text that names what leaves them out, as the command line takes it: "deep:every=3"."""

    def list_computed_passes(self, module: str) -> Sequence[int]:
        """Return the passes of the run, from 0, that compute the module of this name; a changed
        text may add some.
        """

    def is_skipped(self, module: str) -> bool:
        """Return True if the last pass left out the module of this name."""


class Guidance(Protocol):
    """Interface of a guidance formula, which combines the predictions of several branches."""

    @property
    def possible_branches(self) -> tuple[Branch, ...]:
        """Guidance branches, that is predictions to combine, that a run may compute; all but
        "uncond" are given the prompt.
        """

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step; each one left out
        makes the batch smaller.
        """

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the denoiser's predictions of the computed branches into one, (B, C, H, W)."""


class StepCallback(Protocol):
    """Interface of a callback that reads or changes a run before each pass and after each step."""

    def before_pass(self, run: RunState) -> None:
        """Read or change the run before the denoiser reads its latents and `pass_conditioning`; by
        default do nothing.
        """
        return

    def after_step(self, run: RunState) -> None:
        """Read or change the run after the scheduler has written `run.latents_BCHW`; by default do
        nothing.
        """
        return


@runtime_checkable
class PipelineWithStepCallbacks(Protocol):
    """Interface of a pipeline whose sampling loop calls `step_callbacks`: one of this library's."""

    step_callbacks: list[StepCallback]
