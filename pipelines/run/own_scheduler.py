"""A scheduler of the call's own: stepping it moves nobody else's."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from pipelines.run.exclusive_access import Waiting, alone_with


@contextmanager
def own(scheduler: Any, waiting: Waiting) -> Iterator[Any]:
    """A copy of the scheduler; when the block ends the scheduler is where the copy was left.

    One that cannot be copied is given itself, to one thread at a time.
    """
    copied = copy_of(scheduler)
    if copied is None:
        with alone_with(scheduler, waiting=waiting):
            yield scheduler
        return
    try:
        yield copied
    finally:
        with _lock:
            vars(scheduler).update(vars(copied))


def copy_of(scheduler: Any) -> Any | None:
    """One that shares nothing but the config; None where that cannot be had.

    A method that was replaced on the object would step the scheduler it was taken from, and models
    are not copied.
    """
    if scheduler is None:
        return None
    with _lock:
        state = getattr(scheduler, "__dict__", None)
        attached = (FunctionType, nn.Module, DiffusionPipeline)
        if state is None or any(isinstance(value, attached) for value in state.values()):
            return None
        config = state.get("_internal_dict")
        try:
            return copy.deepcopy(scheduler, {id(config): config})
        except Exception:  # Of whatever somebody's own class holds.
            return None


_lock = threading.Lock()
"""No scheduler is copied while another call leaves its state there."""
