"""Timesteps of a run: evenly spaced, with another spacing, or custom."""

import copy
import inspect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isfinite
from numbers import Real
from typing import Any

import torch

from t2i.denoiser.sampling_defaults import MAX_STEPS
from t2i.denoiser.schedulers import SAMPLERS_WITH_SIGMAS, Scheduler
from t2i.errors import ArgumentError
from t2i.terminal import plural

SPACING_NAMES = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
"""diffusers' settings that space the noise levels, and what people call them."""
IMAGE_FORMING_SIGMAS = (0.1, 15.0)
"""Sigmas between which a picture is made: below all is there, above nothing is; models that do not
begin from noise alone begin at 14.6."""
MAX_SUGGESTED_STEPS = 100


def set_timesteps(
    scheduler: Scheduler,
    num_inference_steps: int,
    device: torch.device,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> int:
    """Set the scheduler's timesteps, evenly spaced or custom; return the number of steps.

    Raises ArgumentError for timesteps or sigmas that the scheduler cannot use.
    """
    if timesteps is not None and sigmas is not None:
        raise ArgumentError("Got both timesteps and sigmas: give one of them.")
    if timesteps is None and sigmas is None:
        check_num_steps(num_inference_steps)
    settings: dict[str, Any] = {"num_inference_steps": num_inference_steps}
    for custom in ("timesteps", "sigmas"):
        values = timesteps if custom == "timesteps" else sigmas
        if values is None:
            continue
        if custom not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ArgumentError(
                f"{type(scheduler).__name__} does not take {custom} of one's own: "
                "give num_inference_steps, or choose another sampler."
            )
        check_decreasing(custom, values)
        if values is timesteps:
            check_timesteps_in_trained_range(timesteps, scheduler.config.get("num_train_timesteps"))
        settings = {custom: values}
    try:
        scheduler.set_timesteps(device=device, **settings)
    except ValueError as error:
        raise ArgumentError(f"{type(scheduler).__name__} cannot step like this: {error}") from error
    if hasattr(scheduler, "set_begin_index"):
        # NOTE a footgun: left open, the first step is looked up by its timestep, and where several
        # noise levels round to one timestep (at zero-terminal SNR) it is taken for the second.
        scheduler.set_begin_index(0)
    if "num_inference_steps" not in settings:
        return len(scheduler.timesteps)
    check_enough_steps_at_image_forming_sigmas(scheduler, num_inference_steps)
    return num_inference_steps


def check_num_steps(num_inference_steps: int) -> None:
    """Raise ArgumentError unless the number of steps is an integer from 1 to MAX_STEPS."""
    whole = isinstance(num_inference_steps, int) and not isinstance(num_inference_steps, bool)
    if not whole or not 1 <= num_inference_steps <= MAX_STEPS:
        raise ArgumentError(
            f"Got num_inference_steps={num_inference_steps!r:.80}, expected a whole number from 1 "
            f"to {MAX_STEPS:,}."
        )


def check_decreasing(name: str, values: object) -> None:
    """Raise ArgumentError unless custom timesteps or sigmas are finite and strictly decreasing."""
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    numbers: list[Any] = list(values) if isinstance(values, Iterable) else [None]
    sound = bool(numbers) and all(isinstance(one, Real) and isfinite(one) for one in numbers)
    if not sound or any(after >= before for before, after in pairwise(numbers)):
        example = "[999, 600, 200]" if name == "timesteps" else "[14.6, 3.0, 0.5]"
        raise ArgumentError(
            f"Got {name}={values!r:.80}, expected finite numbers, each less than the one before: "
            f"{name}={example}."
        )


def check_timesteps_in_trained_range(timesteps: Sequence[float], trained: int | None) -> None:
    """Raise ArgumentError for decreasing timesteps that lie outside the trained range."""
    first, last = float(timesteps[0]), float(timesteps[-1])
    if trained is not None and not 0 <= last <= first <= trained - 1:
        raise ArgumentError(
            f"Got timesteps from {first:g} to {last:g}, expected some of {trained - 1} to 0, those "
            "that this model was trained at."
        )


def check_enough_steps_at_image_forming_sigmas(
    scheduler: Scheduler, num_inference_steps: int
) -> None:
    """Raise ArgumentError if the spacing of the noise levels (Karras, exponential or beta) leaves
    too few steps at the noise levels at which an image forms.

    From pure noise (zero-terminal SNR, sigma 4096) these spacings spend most steps above
    IMAGE_FORMING_SIGMAS, and a multistep solver overshoots in the few that remain. The bound is
    measured, docs/decisions.md of 2026-11-29.
    """
    config = scheduler.config
    spacing = next((name for key, name in SPACING_NAMES.items() if config.get(key)), None)
    if spacing is None or not config.get("rescale_betas_zero_snr"):
        return
    needed = min_steps_at_image_forming_sigmas(scheduler)
    seen = count_steps_at_image_forming_sigmas(scheduler)
    if seen >= needed:
        return
    trial, enough = copy.deepcopy(scheduler), num_inference_steps
    while count_steps_at_image_forming_sigmas(trial) < needed and enough < MAX_SUGGESTED_STEPS:
        enough += 1
        trial.set_timesteps(enough, device=torch.device("cpu"))
    unspaced = find_base_sampler_name(scheduler)
    name = (
        f"{unspaced} {spacing}"
        if unspaced in SAMPLERS_WITH_SIGMAS
        else f"{unspaced} with {spacing} spacing"
    )
    raise ArgumentError(
        f"At {plural(num_inference_steps, 'step')} {name!r} draws smeared pictures with this "
        "model, which begins from noise alone (zero-terminal SNR): the spacing leaves "
        f"{plural(seen, 'step')} in which anything can be seen, expected {needed}. Choose "
        f"{unspaced!r}, its plain spacing, or at least {enough} steps."
    )


def min_steps_at_image_forming_sigmas(scheduler: Scheduler) -> int:
    """Return the fewest steps that the solver needs at the noise levels at which an image forms
    (IMAGE_FORMING_SIGMAS).
    """
    order: int = scheduler.config.get("solver_order", 1)
    return order + 2 if order > 1 else 2


def count_steps_at_image_forming_sigmas(scheduler: Scheduler) -> int:
    """Count the scheduler's steps whose sigma lies in IMAGE_FORMING_SIGMAS."""
    sigmas: torch.Tensor = getattr(scheduler, "sigmas")  # noqa: B009 - not of every scheduler
    below, above = IMAGE_FORMING_SIGMAS
    return int(((sigmas > below) & (sigmas < above)).sum())


def find_base_sampler_name(scheduler: Scheduler) -> str:
    """Return the name of a scheduler's sampler without its noise spacing, "euler" for "euler
    karras"; the class name for an unknown one.
    """
    fitting = [
        name
        for name, sampler in SAMPLERS_WITH_SIGMAS.items()
        if sampler.class_name == type(scheduler).__name__
        and all(scheduler.config.get(key) == value for key, value in sampler.settings.items())
    ]
    most_specific = max(
        fitting, key=lambda name: len(SAMPLERS_WITH_SIGMAS[name].settings), default=None
    )
    return type(scheduler).__name__ if most_specific is None else most_specific
