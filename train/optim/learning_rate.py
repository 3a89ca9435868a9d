"""Schedule of the learning rate, in closed form."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LearningRateScheduleConfig(BaseModel):
    """Configuration of the learning rate schedule: warmup and decay, as a factor on each group's
    rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: int = Field(0, ge=0)
    """Steps of the linear rise from 0 to the full rate."""
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_share: float = Field(1.0, gt=0, le=1)
    """Share of all steps, at the end of the run, over which the rate decays."""
    floor: float = Field(0.0, ge=0, le=1)
    """Share of the full rate that is left at the end."""
    cycles: int = Field(1, ge=1)
    """Number of decays; each but the first starts again from the full rate."""


def compute_learning_rate_factor(
    step: int, steps: int, config: LearningRateScheduleConfig
) -> float:
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
