"""Step of a diffusers pipeline's loop that a denoiser call belongs to, from its scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from t2i.errors import AttentionError


class StepTracker:
    """Tracker of the step that each denoiser call belongs to, by the pipeline's scheduler.

    A run begins when the scheduler has new timesteps; its first call is step 0, also where
    image-to-image leaves out the first timesteps. Without a scheduler every call is a run.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._timesteps: Tensor | None = None
        self._first = self._last = 0

    def advance_to_next_call(self, arguments: Mapping[str, Any]) -> tuple[int, int]:
        """Advance to the next denoiser call and return its step, from 0, and the number of
        steps.

        arguments : arguments of the denoiser's call by name

        Raises AttentionError for a timestep that is none of the scheduler's.
        """
        names = ("scheduler", "decoder_scheduler")
        parts = (getattr(self.pipeline, name, None) for name in names)
        scheduler = next((part for part in parts if part is not None), None)
        timesteps = getattr(scheduler, "timesteps", None)
        if not isinstance(timesteps, Tensor):
            return 0, 1

        steps = getattr(self.pipeline, "num_timesteps", None)
        steps = steps if isinstance(steps, int) else len(timesteps)
        begins = timesteps is not self._timesteps
        before = len(timesteps) - steps - 1 if begins else self._last
        self._last = self._index(scheduler, timesteps, arguments, before)
        if begins or self._last < self._first:
            self._timesteps, self._first = timesteps, self._last
        return self._last - self._first, min(steps, len(timesteps) - self._first)

    def _index(
        self, scheduler: Any, timesteps: Tensor, arguments: Mapping[str, Any], before: int
    ) -> int:
        if hasattr(scheduler, "step_index"):
            index = scheduler.step_index  # None until it has made a step
            return int((scheduler.begin_index or 0) if index is None else index)

        timestep = torch.as_tensor(arguments["timestep"]).flatten()[0]
        indices = (timesteps == timestep.to(timesteps.device)).nonzero().flatten().tolist()
        if not indices:
            raise AttentionError(
                f"The denoiser was called at timestep {timestep.item()}, which is none of its "
                "scheduler's: attend() cannot find the step."
            )
        # NOTE a footgun: PNDM comes to one of its timesteps twice
        return int(next((index for index in indices if index > before), indices[-1]))
