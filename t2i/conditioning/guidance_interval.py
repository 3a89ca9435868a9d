"""Guidance that acts in an interval of the run.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import check_finite_number
from t2i.conditioning.run_state import Guidance, RunState
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Interval:
    """Guidance in an interval of steps (Kynkaanniemi et al. 2024,
    https://arxiv.org/abs/2404.07724).

    Of N steps those from int(start * N) up to, not including, int(stop * N) are guided; the others
    compute the branch "cond" alone. The paper bounds the noise level sigma instead of the step;
    fractions of the run do not depend on the sampler, and mean what they mean in diffusers.
    """

    guidance: Guidance
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.guidance, Interval) or not hasattr(self.guidance, "combine"):
            raise ArgumentError(
                f"Got guidance={self.guidance!r}, expected a guidance that is no interval itself."
            )
        check_finite_number("start", self.start)
        check_finite_number("stop", self.stop)
        if not 0 <= self.start < self.stop <= 1:
            raise ArgumentError(
                f"Got start={self.start} and stop={self.stop}, expected fractions of the run with "
                "0 <= start < stop <= 1, such as 0.2 and 0.8."
            )
        others = [b for b in self.possible_branches if b.startswith("cond") and b != "cond"]
        if others:
            raise ArgumentError(
                "Got an Interval around a composed guidance: outside it only the first part of the "
                f"prompt would have an effect, not {', '.join(others)}. Leave out start and stop."
            )

    @property
    def possible_branches(self) -> tuple[Branch, ...]:
        """Guidance branches that a run may compute: those of the guidance inside the interval."""
        return self.guidance.possible_branches

    def is_active(self, run: RunState) -> bool:
        """Return True if the run's current step lies in the interval of steps with guidance."""
        first, end = (int(fraction * run.num_steps) for fraction in (self.start, self.stop))
        return first <= run.step < end

    def branches(self, run: RunState) -> tuple[Branch, ...]:
        """Return the guidance branches that the denoiser computes at this step: those of the
        guidance inside the interval, "cond" alone outside.
        """
        return self.guidance.branches(run) if self.is_active(run) else ("cond",)

    def combine(self, predictions: Mapping[Branch, Tensor], run: RunState) -> Tensor:
        """Combine the branches' predictions by the guidance inside the interval of steps; outside,
        return that of "cond".
        """
        return (
            self.guidance.combine(predictions, run) if self.is_active(run) else predictions["cond"]
        )
