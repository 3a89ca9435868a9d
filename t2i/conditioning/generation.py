"""One generation under way, and who takes part in it: the guidance and the visitors.

B batch rows (here: pictures), C channels, H W latent size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from t2i.conditioning.conditioning import Branch, Conditioning


@dataclass(slots=True)
class Run:
    """Where a run is; a visitor may give it other latents, conditioning or guidance.

    A step is one turn of the loop, thus one pass of the denoiser: second-order samplers turn
    about twice as often as the user asked for steps.
    """

    latents_BCHW: Tensor
    conditioning: Conditioning
    """Every branch that guidance may ask for."""
    guidance: "Guidance"
    timesteps: Tensor
    step: int = 0
    stop: bool = False
    """Set by a visitor: the loop ends before its next pass."""
    notes: dict[str, Tensor] = field(default_factory=dict)
    """What a guidance remembers from one step to the next."""
    denoised_factors: Sequence[tuple[float, float]] = ()
    """For each turn a and b of clean latents = a * latents + b * prediction, if anybody asks."""
    denoise: Callable[[Tensor, Conditioning], Tensor] | None = None
    """A pass at this step's timestep for a visitor who needs one of its own, set by the loop:
    (latents (rows, C, H, W), what each row is told) -> prediction (rows, C, H, W)."""

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        return self.timesteps[self.step]

    @property
    def told(self) -> Conditioning:
        """The rows of this step's pass, with their roles."""
        return self.conditioning.select(self.guidance.branches(self))


class Guidance(Protocol):
    """Makes one prediction of several; see guidance.py for the formulas."""

    @property
    def needs(self) -> tuple[Branch, ...]:
        """Every branch that a run may ask for; all but "uncond" are told the prompt."""

    def branches(self, run: Run) -> tuple[Branch, ...]:
        """The branches to compute at this step; leaving one out saves its share of the pass."""

    def combine(self, predictions: Mapping[Branch, Tensor], run: Run) -> Tensor:
        """One prediction (B, C, H, W) from those of the branches asked for."""


class Visitor(Protocol):
    """Looks at a run, or changes it, between the passes of the denoiser."""

    def before_pass(self, run: Run) -> None:
        """The denoiser is about to read `run.told` and `run.latents_BCHW`."""

    def after_step(self, run: Run) -> None:
        """The scheduler has put new values into `run.latents_BCHW`."""
