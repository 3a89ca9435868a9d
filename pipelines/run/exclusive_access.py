"""Locks on models and schedulers, so that one thread's call uses them at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled
from t2i.errors import T2IError

LockPurpose = Literal["state", "attention"]
"""Purpose of a lock: the state that use of the object changes, or its attention under edits."""
POLL_SECONDS = 0.05
"""Seconds between two checks whether the wait was interrupted."""


class WaitInterruptFlag:
    """Flag of a call that waits for a lock; setting its attribute `interrupt` to True ends the
    wait.
    """

    interrupt = False


@contextmanager
def holding_locks(
    *things: Any, purpose: LockPurpose = "state", waiting: WaitInterruptFlag | None = None
) -> Iterator[None]:
    """Hold the locks of models or schedulers within the block, so that other threads wait;
    reentrant.

    Ctrl-C ends the wait, and so does `waiting.interrupt`, with a T2IError.
    """
    with ExitStack() as stack:
        # The same order everywhere prevents deadlocks.
        for lock in (get_or_create_lock(thing, purpose) for thing in sorted(things, key=id)):
            while not lock.acquire(timeout=POLL_SECONDS):
                if waiting is not None and waiting.interrupt:
                    raise T2IError(
                        "Interrupted while it waited for another thread's call of the same model: "
                        "nothing was generated."
                    )
            stack.callback(lock.release)
        yield


def get_or_create_lock(thing: Any, purpose: LockPurpose) -> "threading.RLock":
    """Return the lock that belongs to an object and a purpose, creating it at the first call."""
    with _guard:
        return _locks.setdefault(thing, {}).setdefault(purpose, threading.RLock())


_guard = threading.Lock()
_locks: WeakKeyDictionary[Any, dict[LockPurpose, "threading.RLock"]] = WeakKeyDictionary()


def lock_denoise_that_changes_model(
    denoise: Callable[..., Tensor], model: nn.Module
) -> Callable[..., Tensor]:
    """Return `denoise`, wrapped in the model's lock where a pass changes the model: LoRA scales,
    compiling.
    """
    if not has_loras(model) and not is_compiled(model):
        return denoise

    def locked(*args: Any, **kwargs: Any) -> Tensor:
        with holding_locks(model):
            return denoise(*args, **kwargs)

    return locked


def has_loras(model: object) -> bool:
    """Return True if LoRA layers, that is adapters of peft, are attached to the model."""
    return hasattr(model, "peft_config")
