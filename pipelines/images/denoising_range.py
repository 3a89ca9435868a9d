"""Timesteps of a run that does a part of an image's schedule, so that pipelines can share one.

A fraction counts the noise that the model was trained on, as in diffusers: the base draws with
denoising_end=0.8, the refiner continues with denoising_start=0.8, whatever their step counts.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from pipelines.images.input_images import select_strength_timesteps
from t2i.errors import ArgumentError


class TimestepRange(NamedTuple):
    """Consecutive timesteps of a scheduler that one pipeline runs, with their number of sampling
    steps.
    """

    timesteps: Tensor
    num_inference_steps: int
    remaining: int = 0
    """Number of timesteps of the scheduler after these, left to another pipeline."""


def check_denoising_fractions(denoising_start: float | None, denoising_end: float | None) -> None:
    """Raise ArgumentError unless the fractions lie between 0 and 1, the start below the end."""
    for name, fraction in (("denoising_start", denoising_start), ("denoising_end", denoising_end)):
        if fraction is not None and (not isinstance(fraction, Real) or not 0 < fraction < 1):
            raise ArgumentError(
                f"Got {name}={fraction!r}, expected a number between 0 and 1, such as 0.8, the "
                "fraction of the noise that is removed before; None for the whole run."
            )
    both = denoising_start is not None and denoising_end is not None
    if both and denoising_start >= denoising_end:  # type: ignore[operator]  # both are numbers
        raise ArgumentError(
            f"Got denoising_start={denoising_start} and denoising_end={denoising_end}: the end "
            "must be the larger one."
        )


def select_image_to_image_timesteps(
    scheduler: Any,
    num_inference_steps: int,
    strength: float,
    denoising_start: float | None,
    denoising_end: float | None,
) -> TimestepRange:
    """Return the timesteps of image-to-image: the last ones by `strength`, or those from
    `denoising_start` on.

    With `denoising_start` strength is ignored.
    """
    if denoising_start is None:
        timestep_range = TimestepRange(
            *select_strength_timesteps(scheduler, num_inference_steps, strength)
        )
    else:
        timestep_range = skip_to_denoising_start(scheduler, denoising_start)
    return truncate_at_denoising_end(scheduler, timestep_range, denoising_end)


def skip_to_denoising_start(scheduler: Any, denoising_start: float) -> TimestepRange:
    """Return the timesteps after the fraction `denoising_start` of the noise is removed, and set
    the scheduler to begin there.
    """
    later = int((scheduler.timesteps < compute_cutoff_timestep(scheduler, denoising_start)).sum())
    if scheduler.order == 2 and later % 2 == 0:
        later += 1  # Second-order samplers take all timesteps but the first in pairs.
    begin = len(scheduler.timesteps) - later
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    return TimestepRange(
        timesteps,
        count_sampling_steps("denoising_start", denoising_start, timesteps, scheduler.order),
    )


def truncate_at_denoising_end(
    scheduler: Any, timestep_range: TimestepRange, denoising_end: float | None
) -> TimestepRange:
    """Return the timesteps of a range until the fraction `denoising_end` of the noise is
    removed; all for None.
    """
    if denoising_end is None:
        return timestep_range
    count = int(
        (timestep_range.timesteps >= compute_cutoff_timestep(scheduler, denoising_end)).sum()
    )
    timesteps = timestep_range.timesteps[:count]
    steps = count_sampling_steps("denoising_end", denoising_end, timesteps, scheduler.order)
    return TimestepRange(
        timesteps, steps, timestep_range.remaining + len(timestep_range.timesteps) - count
    )


def compute_cutoff_timestep(scheduler: Any, fraction: float) -> int:
    """Return the training timestep at which a fraction of the noise is removed, as diffusers counts
    it.
    """
    trained: int = scheduler.config["num_train_timesteps"]
    return round(trained - fraction * trained)


def count_sampling_steps(name: str, fraction: float, timesteps: Tensor, order: int) -> int:
    """Count the sampling steps that the timesteps make; ArgumentError if there are none."""
    if len(timesteps) == 0:
        raise ArgumentError(
            f"Got {name}={fraction}, which leaves no step: raise num_inference_steps, or let the "
            "other pipeline take a smaller fraction."
        )
    return math.ceil(len(timesteps) / order)
