"""Moving averages of the trained weights, of exponential or power-function profile.

A power-function average of relative width sigma_rel ("length") gives the weights of step s the
share s^gamma over all steps so far (Karras et al., 2024, section 3.1, arXiv 2312.02696): it
stretches with the run. From snapshots of two of them any other is rebuilt, see
`train.optim.posthoc_ema`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from train.parallel.fsdp import copy_into_sharded, get_local_shard

MAX_EMA_LENGTH = 12**-0.5
"""Length of the average in which all steps have the same weight."""
EMALength = Annotated[float, Field(gt=0, lt=MAX_EMA_LENGTH)]


class EMAConfig(BaseModel):
    """Configuration of the weight average (EMA): its kind and speed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["decay", "power", "none"] = "decay"
    """`decay` forgets at one rate; `power` can be given any length after training."""
    decay: float = Field(0.999, ge=0, lt=1)
    """Share of the old average that one step keeps; 0 is the weights themselves."""
    warmup: bool = False
    """Lower the decay to (1 + n) / (10 + n) at step n while that is smaller."""
    lengths: tuple[EMALength, ...] = Field((0.05, 0.10), min_length=1)
    """Of the power averages, as shares of the run; the first is drawn from and exported."""
    snapshot_every: int = Field(250, ge=1)
    """Steps between two snapshots of the power averages."""


class EMA:
    """Exponential or power-function moving averages (EMA) of the trained weights, in float32.

    a_n = d a_{n-1} + (1 - d) w_n after n updates, a_0 = w_0.

    averages : one for `decay`, one per length for `power`; the first is drawn from and exported
    """

    def __init__(self, weights: Mapping[str, Tensor], config: EMAConfig) -> None:
        self.config = config
        labels = {
            "decay": [""],
            "power": [*map(format_ema_tensor_name_prefix, config.lengths)],
            "none": [],
        }[config.kind]
        self.averages = {
            name: {key: weight.detach().float().clone() for key, weight in weights.items()}
            for name in labels
        }
        self._gammas = [compute_gamma_from_length(length) for length in config.lengths]

    @property
    def averaged_weights(self) -> Mapping[str, Tensor]:
        """Averaged weights by name, those of the first moving average, which sample sheets and
        export use; empty for kind "none".
        """
        return next(iter(self.averages.values()), {})

    def compute_exponential_decay(self, step: int) -> float:
        """Return the decay of an exponential average at step `step`, counted from 1, with warmup
        if configured.
        """
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + step) / (10 + step))

    def compute_decays(self, step: int) -> list[float]:
        """Return the decay factor of each tracked moving average at step n; (1 - 1/n)^(gamma + 1)
        for kind "power" (section 3.1).
        """
        if self.config.kind == "power":
            return [(1 - 1 / step) ** (gamma + 1) for gamma in self._gammas]
        return [self.compute_exponential_decay(step)] * len(self.averages)

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Update the moving averages with the weights after step `step`, counted from 1."""
        current = [get_local_shard(weight.detach()).float() for weight in weights.values()]
        for average, decay in zip(self.averages.values(), self.compute_decays(step), strict=True):
            torch._foreach_lerp_(
                [get_local_shard(average[name]) for name in weights], current, 1 - decay
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all moving averages of the weights by name, for a checkpoint."""
        return {
            f"{name}{key}": value
            for name, average in self.averages.items()
            for key, value in average.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the moving averages of the weights from what `state_dict` returned."""
        for key, value in self.state_dict().items():
            copy_into_sharded(value, state[key])

    @contextmanager
    def using_averaged_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the model's weights the values of their moving average within the block; restore
        their own afterwards.
        """
        with using_weight_values(self.averaged_weights, weights):
            yield


@contextmanager
def using_weight_values(
    values: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """Context manager that gives the named weights other values within its block and restores their
    own afterwards.
    """
    kept = {name: weights[name].detach().clone() for name in values}
    try:
        with torch.no_grad():
            for name, value in values.items():
                weights[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)


def format_ema_tensor_name_prefix(length: float) -> str:
    """Return the prefix of the tensor names of a power-function average in checkpoints and
    snapshots.
    """
    return f"{length:g}/"


def compute_gamma_from_length(length: float) -> float:
    """Return the power gamma of the profile of this length, sigma_rel in the paper.

    The length is the profile's standard deviation as a share of the run (appendix C):
    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma a cubic with one
    positive root for every length below `MAX_EMA_LENGTH`.
    """
    t = length**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())
