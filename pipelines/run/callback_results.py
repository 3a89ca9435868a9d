"""What a user's callback gives back, checked before a run goes on with it."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from t2i.errors import ArgumentError

NAME = "callback_on_step_end"


def check_takes_a_step(callback: object) -> None:
    """Raise ArgumentError unless it is a function of a pipeline, a step, a timestep and tensors."""
    if callback is None:
        return
    if not callable(callback):
        raise ArgumentError(f"Got {NAME} of type {type(callback).__name__}, expected a function.")
    try:
        signature(callback).bind(None, 0, None, {})
    except TypeError as error:
        raise ArgumentError(
            f"{NAME} cannot be called with (pipeline, step, timestep, callback_kwargs): {error}."
        ) from error
    except ValueError:  # of C, with no signature to look at
        return


def tensors_of(returned: object) -> Mapping[str, Any]:
    """What was returned, if it is a dict."""
    if isinstance(returned, Mapping):
        return returned
    raise ArgumentError(
        f"{NAME} returned {type(returned).__name__}, expected the dict of tensors that it was "
        "given, changed or not: end it with `return callback_kwargs`."
    )


def check_tensor(
    name: str, given: Tensor, returned: object, step: int, *, same_rows: bool = False
) -> Tensor:
    """The tensor that takes the place of what was given after a step, counted from 0; an
    ArgumentError where it cannot."""
    shape = tuple(given.shape)
    if not isinstance(returned, Tensor):
        raise ArgumentError(
            f"{NAME} returned {name} of type {type(returned).__name__}, expected a tensor of shape "
            f"{shape}."
        )
    first = 0 if same_rows else 1
    alike = returned.ndim == given.ndim and returned.shape[first:] == given.shape[first:]
    if not alike or returned.dtype != given.dtype:
        raise ArgumentError(
            f"{NAME} returned {name} of shape {tuple(returned.shape)} and {returned.dtype}, "
            f"expected {shape} and {given.dtype}, as it was given."
        )
    if returned.device != given.device:
        raise ArgumentError(
            f"{NAME} returned {name} on {returned.device}, expected it on {given.device}."
        )
    if not torch.isfinite(returned).all():
        raise ArgumentError(
            f"{NAME} returned {name} with values that are no finite numbers after step {step + 1}: "
            "what it computes must not become NaN or infinite."
        )
    return returned
