"""A copy of the scheduler for each call, so that stepping it affects no other call."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from pipelines.run.exclusive_access import WaitInterruptFlag, holding_locks


@contextmanager
def using_scheduler_copy(scheduler: Any, waiting: WaitInterruptFlag) -> Iterator[Any]:
    """Yield a copy of the scheduler, and on exit copy its state back to the scheduler.

    A scheduler that cannot be copied is yielded itself, to one thread at a time.
    """
    copied = copy_scheduler(scheduler)
    if copied is None:
        with holding_locks(scheduler, waiting=waiting):
            yield scheduler
        return
    try:
        yield copied
    finally:
        with _lock:
            vars(scheduler).update(vars(copied))


def copy_scheduler(scheduler: Any) -> Any | None:
    """Return a deep copy of a scheduler that shares only its config, or None if it cannot be
    copied.

    A method replaced on the object would step the original scheduler, and models are not copied.
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
        except Exception:  # from attributes of a user's own class
            return None


_lock = threading.Lock()
"""Held while a scheduler is copied, or while a call writes its state back."""
