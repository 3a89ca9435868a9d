"""Which turn of a pipeline's loop a call of the denoiser belongs to, as its scheduler tells."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from t2i.errors import AttentionError


class StepTracker:
    """Reads the scheduler of one of diffusers' pipelines; without one every call is a run.

    A run begins where the scheduler has new timesteps, and its first call is turn 0, also where
    image-to-image leaves out the first of them.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._timesteps: Tensor | None = None
        self._first = self._last = 0

    def advance(self, given: Mapping[str, Any]) -> tuple[int, int]:
        """The turn, from 0, and how many there are; `given` is what the denoiser was called with.

        Raises AttentionError for a timestep that is none of the scheduler's.
        """
        names = ("scheduler", "decoder_scheduler")
        parts = (getattr(self.pipeline, name, None) for name in names)
        scheduler = next((part for part in parts if part is not None), None)
        timesteps = getattr(scheduler, "timesteps", None)
        if not isinstance(timesteps, Tensor):
            return 0, 1

        turns = getattr(self.pipeline, "num_timesteps", None)
        turns = turns if isinstance(turns, int) else len(timesteps)
        begins = timesteps is not self._timesteps
        before = len(timesteps) - turns - 1 if begins else self._last
        self._last = self._index(scheduler, timesteps, given, before)
        if begins or self._last < self._first:
            self._timesteps, self._first = timesteps, self._last
        return self._last - self._first, min(turns, len(timesteps) - self._first)

    def _index(
        self, scheduler: Any, timesteps: Tensor, given: Mapping[str, Any], before: int
    ) -> int:
        if hasattr(scheduler, "step_index"):
            index = scheduler.step_index  # None until it has made a step
            return int((scheduler.begin_index or 0) if index is None else index)

        timestep = torch.as_tensor(given["timestep"]).flatten()[0]
        found = (timesteps == timestep.to(timesteps.device)).nonzero().flatten().tolist()
        if not found:
            raise AttentionError(
                f"The denoiser was called at timestep {timestep.item()}, which is none of its "
                "scheduler's: attend() cannot tell the step."
            )
        # NOTE a footgun: PNDM comes to one of its timesteps twice
        return int(next((index for index in found if index > before), found[-1]))
