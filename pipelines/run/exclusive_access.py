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
POLL = 0.05
"""Seconds between two checks whether the wait was interrupted."""


class WaitFlag:
    """Flag of a call that waits for a lock; setting `interrupt` ends the wait."""

    interrupt = False


@contextmanager
def holding_locks(
    *things: Any, purpose: LockPurpose = "state", waiting: WaitFlag | None = None
) -> Iterator[None]:
    """Hold the locks of these objects for this purpose within the block; reentrant in one thread.

    Ctrl-C ends the wait, and so does `waiting.interrupt`, with a T2IError.
    """
    with ExitStack() as stack:
        # The same order everywhere prevents deadlocks.
        for lock in (find_lock(thing, purpose) for thing in sorted(things, key=id)):
            while not lock.acquire(timeout=POLL):
                if waiting is not None and waiting.interrupt:
                    raise T2IError(
                        "Interrupted while it waited for another thread's call of the same model: "
                        "nothing was generated."
                    )
            stack.callback(lock.release)
        yield


def find_lock(thing: Any, purpose: LockPurpose) -> "threading.RLock":
    """Return the lock of an object for a purpose, always the same one."""
    with _guard:
        return _locks.setdefault(thing, {}).setdefault(purpose, threading.RLock())


_guard = threading.Lock()
_locks: WeakKeyDictionary[Any, dict[LockPurpose, "threading.RLock"]] = WeakKeyDictionary()


def serialize_passes(denoise: Callable[..., Tensor], model: nn.Module) -> Callable[..., Tensor]:
    """Return `denoise`, made exclusive if a pass changes the model: scales LoRA or compiles."""
    if not has_loras(model) and not is_compiled(model):
        return denoise

    def locked(*args: Any, **kwargs: Any) -> Tensor:
        with holding_locks(model):
            return denoise(*args, **kwargs)

    return locked


def has_loras(model: object) -> bool:
    """Return True for a model with peft adapters."""
    return hasattr(model, "peft_config")


def is_offloaded(model: nn.Module) -> bool:
    """Return True if hooks of accelerate or diffusers move the model's weights between devices."""
    return hasattr(model, "_hf_hook") or hasattr(model, "_diffusers_hook")
