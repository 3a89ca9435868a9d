"""The steps of a run, laid out by its scheduler: evenly, spaced otherwise, or as given."""

import copy
import inspect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isfinite
from numbers import Real
from typing import Any

import torch

from t2i.denoiser.sampling_defaults import MOST_STEPS
from t2i.denoiser.schedulers import WITH_SIGMAS, Scheduler
from t2i.errors import ArgumentError
from t2i.terminal import several

SPACINGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
"""diffusers' settings that space the noise levels, and what people call them."""
VISIBLE = (0.1, 15.0)
"""Sigmas between which a picture is made: below all is there, above nothing is; models that do not
begin from noise alone begin at 14.6."""
MOST_SUGGESTED = 100


def set_timesteps(
    scheduler: Scheduler,
    num_inference_steps: int,
    device: torch.device,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> int:
    """Lay out the scheduler's steps, evenly or as given; returns how many the user asked for."""
    if timesteps is not None and sigmas is not None:
        raise ArgumentError("Got both timesteps and sigmas: give one of them.")
    if timesteps is None and sigmas is None:
        check_steps(num_inference_steps)
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
        check_falling(custom, values)
        if values is timesteps:
            check_trained(timesteps, scheduler.config.get("num_train_timesteps"))
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
    check_spacing(scheduler, num_inference_steps)
    return num_inference_steps


def check_steps(num_inference_steps: int) -> None:
    whole = isinstance(num_inference_steps, int) and not isinstance(num_inference_steps, bool)
    if not whole or not 1 <= num_inference_steps <= MOST_STEPS:
        raise ArgumentError(
            f"Got num_inference_steps={num_inference_steps!r:.80}, expected a whole number from 1 "
            f"to {MOST_STEPS:,}."
        )


def check_falling(name: str, values: object) -> None:
    """Raise ArgumentError unless these are numbers, each less than the one before."""
    values = values.tolist() if isinstance(values, torch.Tensor) else values
    numbers: list[Any] = list(values) if isinstance(values, Iterable) else [None]
    sound = bool(numbers) and all(isinstance(one, Real) and isfinite(one) for one in numbers)
    if not sound or any(after >= before for before, after in pairwise(numbers)):
        example = "[999, 600, 200]" if name == "timesteps" else "[14.6, 3.0, 0.5]"
        raise ArgumentError(
            f"Got {name}={values!r:.80}, expected finite numbers, each less than the one before: "
            f"{name}={example}."
        )


def check_trained(timesteps: Sequence[float], trained: int | None) -> None:
    """Raise ArgumentError for a timestep that the model was not trained at; values fall."""
    first, last = float(timesteps[0]), float(timesteps[-1])
    if trained is not None and not 0 <= last <= first <= trained - 1:
        raise ArgumentError(
            f"Got timesteps from {first:g} to {last:g}, expected some of {trained - 1} to 0, those "
            "that this model was trained at."
        )


def check_spacing(scheduler: Scheduler, num_inference_steps: int) -> None:
    """Raise ArgumentError where a spacing leaves too few steps to make a picture in.

    From noise alone (zero-terminal SNR, sigma 4096) these spacings spend most steps above VISIBLE,
    and a solver that goes on from several steps before overshoots in the few that are left. The
    bound is measured, docs/decisions.md of 2026-11-29.
    """
    config = scheduler.config
    spacing = next((said for key, said in SPACINGS.items() if config.get(key)), None)
    if spacing is None or not config.get("rescale_betas_zero_snr"):
        return
    needed = least_visible(scheduler)
    seen = visible(scheduler)
    if seen >= needed:
        return
    trial, enough = copy.deepcopy(scheduler), num_inference_steps
    while visible(trial) < needed and enough < MOST_SUGGESTED:
        enough += 1
        trial.set_timesteps(enough, device=torch.device("cpu"))
    plain = plain_name(scheduler)
    name = f"{plain} {spacing}" if plain in WITH_SIGMAS else f"{plain} with {spacing} spacing"
    raise ArgumentError(
        f"At {several(num_inference_steps, 'step')} {name!r} draws smeared pictures with this "
        "model, which begins from noise alone (zero-terminal SNR): the spacing leaves "
        f"{several(seen, 'step')} in which anything can be seen, expected {needed}. Choose "
        f"{plain!r}, its plain spacing, or at least {enough} steps."
    )


def least_visible(scheduler: Scheduler) -> int:
    order: int = scheduler.config.get("solver_order", 1)
    return order + 2 if order > 1 else 2


def visible(scheduler: Scheduler) -> int:
    """How many steps lie where a picture is made."""
    sigmas: torch.Tensor = getattr(scheduler, "sigmas")  # noqa: B009 - not of every scheduler
    below, above = VISIBLE
    return int(((sigmas > below) & (sigmas < above)).sum())


def plain_name(scheduler: Scheduler) -> str:
    """The sampler's name without its spacing; its class where it is none of ours."""
    fitting = [
        name
        for name, sampler in WITH_SIGMAS.items()
        if sampler.class_name == type(scheduler).__name__
        and all(scheduler.config.get(key) == value for key, value in sampler.settings.items())
    ]
    most_said = max(fitting, key=lambda name: len(WITH_SIGMAS[name].settings), default=None)
    return type(scheduler).__name__ if most_said is None else most_said
