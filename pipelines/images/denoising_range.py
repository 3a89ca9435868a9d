"""Which turns of a schedule one run takes, where several pipelines share a picture.

A share is counted in the noise the model was trained on, as diffusers does: the base draws with
denoising_end=0.8, the refiner goes on with denoising_start=0.8, whatever the steps of each.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from pipelines.images.input_images import later_steps
from t2i.errors import ArgumentError


class Stretch(NamedTuple):
    """Turns that follow on one another."""

    timesteps: Tensor
    num_inference_steps: int
    left: int = 0
    """Turns of the scheduler that come after these, for somebody else to take."""


def check_shares(denoising_start: float | None, denoising_end: float | None) -> None:
    """Raise ArgumentError unless the shares are numbers between 0 and 1 that leave some steps."""
    for name, share in (("denoising_start", denoising_start), ("denoising_end", denoising_end)):
        if share is not None and (not isinstance(share, Real) or not 0 < share < 1):
            raise ArgumentError(
                f"Got {name}={share!r}, expected a number between 0 and 1, such as 0.8, the share "
                "of the noise that is taken off before; None for the whole run."
            )
    if denoising_start is not None and denoising_end is not None:
        if denoising_start >= denoising_end:
            raise ArgumentError(
                f"Got denoising_start={denoising_start} and denoising_end={denoising_end}: the end "
                "must be the larger one."
            )


def stretch_of(
    scheduler: Any,
    num_inference_steps: int,
    strength: float,
    denoising_start: float | None,
    denoising_end: float | None,
) -> Stretch:
    """The turns of a picture that is changed by `strength`, or goes on at `denoising_start`, where
    strength has no say."""
    if denoising_start is None:
        stretch = Stretch(*later_steps(scheduler, num_inference_steps, strength))
    else:
        stretch = from_share(scheduler, denoising_start)
    return until_share(scheduler, stretch, denoising_end)


def from_share(scheduler: Any, denoising_start: float) -> Stretch:
    """The turns that are left when this share is done; the scheduler is set to their first."""
    later = int((scheduler.timesteps < cutoff(scheduler, denoising_start)).sum())
    if scheduler.order == 2 and later % 2 == 0:
        later += 1  # Second-order samplers take all turns but the first in twos.
    begin = len(scheduler.timesteps) - later
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    return Stretch(timesteps, some("denoising_start", denoising_start, timesteps, scheduler.order))


def until_share(scheduler: Any, stretch: Stretch, denoising_end: float | None) -> Stretch:
    """The turns of `stretch` before this share is done; all of them for None."""
    if denoising_end is None:
        return stretch
    count = int((stretch.timesteps >= cutoff(scheduler, denoising_end)).sum())
    timesteps = stretch.timesteps[:count]
    steps = some("denoising_end", denoising_end, timesteps, scheduler.order)
    return Stretch(timesteps, steps, stretch.left + len(stretch.timesteps) - count)


def cutoff(scheduler: Any, share: float) -> int:
    """The training timestep at which this share of the noise is gone."""
    trained: int = scheduler.config["num_train_timesteps"]
    return round(trained - share * trained)


def some(name: str, share: float, timesteps: Tensor, order: int) -> int:
    """How many steps these turns are, or an ArgumentError where there is none."""
    if len(timesteps) == 0:
        raise ArgumentError(
            f"Got {name}={share}, which leaves no step: raise num_inference_steps, or let the "
            "other pipeline take a smaller share."
        )
    return math.ceil(len(timesteps) / order)
