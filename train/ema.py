"""The exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class EMAConfig(BaseModel):
    """How slowly the average follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decay: float = Field(0.999, ge=0, lt=1)
    """Share of the old average that one step keeps; 0 is the weights themselves."""
    warmup: bool = False
    """Lower the decay to (1 + n) / (10 + n) at step n while that is smaller."""


class EMA:
    """After n updates a_n = d a_{n-1} + (1 - d) w_n, in float32; a_0 is the first weights."""

    def __init__(self, weights: Mapping[str, Tensor], config: EMAConfig) -> None:
        self.config = config
        self.average = {name: weight.detach().float().clone() for name, weight in weights.items()}

    def decay(self, step: int) -> float:
        """The decay used by the update that makes `step` finished ones."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        averages = [self.average[name] for name in weights]
        current = [weight.detach().float() for weight in weights.values()]
        torch._foreach_lerp_(averages, current, 1 - self.decay(step))

    def load(self, average: Mapping[str, Tensor]) -> None:
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def in_place_of(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block the model computes with the average; afterwards it is as before."""
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(self.average[name])
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(kept[name])
