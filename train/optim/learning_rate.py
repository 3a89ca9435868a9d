"""The schedule of the learning rate, in closed form."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LearningRateConfig(BaseModel):
    """Configuration of the learning rate schedule: warmup and decay, as a factor on each group's
    rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: int = Field(0, ge=0)
    """Steps of linear rise from nothing to the full rate."""
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_share: float = Field(1.0, gt=0, le=1)
    """The share of all steps, at the end of the run, over which the rate falls."""
    floor: float = Field(0.0, ge=0, le=1)
    """What is left of the full rate at the end."""
    cycles: int = Field(1, ge=1)
    """How often it falls; after the first time it starts again from the full rate."""


def compute_learning_rate_factor(step: int, steps: int, config: LearningRateConfig) -> float:
    """Return the factor, in (0, 1], that the schedule puts on learning rates at step `step` of
    `steps`, counted from 0.
    """
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    start = steps - config.decay_share * steps
    if config.decay == "none" or step < start:
        return rise
    falls = (step - start) / (steps - start) * config.cycles
    done = falls - min(int(falls), config.cycles - 1)
    left = 1 - done if config.decay == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
    return rise * (config.floor + (1 - config.floor) * left)
