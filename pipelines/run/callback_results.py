"""Checks of what a user's callback returns, before the run continues with it."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from t2i.errors import ArgumentError

CALLBACK_NAME = "callback_on_step_end"


def check_callback_signature(callback: object) -> None:
    """Raise ArgumentError unless the callback can be called with pipeline, step, timestep and
    tensors."""
    if callback is None:
        return
    if not callable(callback):
        raise ArgumentError(
            f"Got {CALLBACK_NAME} of type {type(callback).__name__}, expected a function."
        )
    try:
        signature(callback).bind(None, 0, None, {})
    except TypeError as error:
        raise ArgumentError(
            f"{CALLBACK_NAME} cannot be called with (pipeline, step, timestep, callback_kwargs): "
            f"{error}."
        ) from error
    except ValueError:  # written in C, without a signature
        return


def require_returned_dict(returned: object) -> Mapping[str, Any]:
    """Return the dict that the user's callback returned; ArgumentError for anything else."""
    if isinstance(returned, Mapping):
        return returned
    raise ArgumentError(
        f"{CALLBACK_NAME} returned {type(returned).__name__}, expected the dict of tensors that it "
        "was given, changed or not: end it with `return callback_kwargs`."
    )


def require_returned_tensor(
    name: str, given: Tensor, returned: object, step: int, *, same_rows: bool = False
) -> Tensor:
    """Return a tensor returned by the callback that replaces `given`; ArgumentError if it
    cannot.

    Raises ArgumentError where type, shape, dtype or device differ, or values are not finite.
    """
    shape = tuple(given.shape)
    if not isinstance(returned, Tensor):
        raise ArgumentError(
            f"{CALLBACK_NAME} returned {name} of type {type(returned).__name__}, expected a "
            f"tensor of shape {shape}."
        )
    first = 0 if same_rows else 1
    identical_generators = (
        returned.ndim == given.ndim and returned.shape[first:] == given.shape[first:]
    )
    if not identical_generators or returned.dtype != given.dtype:
        raise ArgumentError(
            f"{CALLBACK_NAME} returned {name} of shape {tuple(returned.shape)} and "
            f"{returned.dtype}, expected {shape} and {given.dtype}, as it was given."
        )
    if returned.device != given.device:
        raise ArgumentError(
            f"{CALLBACK_NAME} returned {name} on {returned.device}, expected it on {given.device}."
        )
    if not torch.isfinite(returned).all():
        raise ArgumentError(
            f"{CALLBACK_NAME} returned {name} with values that are no finite numbers after step "
            f"{step + 1}: what it computes must not become NaN or infinite."
        )
    return returned
