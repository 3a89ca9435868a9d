"""What calls of several threads share and none can own: one call at a time has it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled
from t2i.errors import T2IError

Purpose = Literal["state", "attention"]
"""What of a thing is taken: what its use changes in it, or its attention, by an edit of prompts."""
POLL = 0.05
"""Seconds between two looks at whether somebody has ended the wait."""


class Waiting:
    """Somebody who waits; `interrupt` is set by whoever wants that to end."""

    interrupt = False


@contextmanager
def alone_with(
    *things: Any, purpose: Purpose = "state", waiting: Waiting | None = None
) -> Iterator[None]:
    """Within the block no other thread has any of these for this purpose; the same thread may take
    them again.

    Ctrl-C ends the wait, and so does `waiting.interrupt`, with a T2IError.
    """
    with ExitStack() as stack:
        # In one order everywhere, so that no two wait for one another.
        for lock in (lock_of(thing, purpose) for thing in sorted(things, key=id)):
            while not lock.acquire(timeout=POLL):
                if waiting is not None and waiting.interrupt:
                    raise T2IError(
                        "Interrupted while it waited for another thread's call of the same model: "
                        "nothing was drawn."
                    )
            stack.callback(lock.release)
        yield


def lock_of(thing: Any, purpose: Purpose) -> "threading.RLock":
    with _guard:
        return _locks.setdefault(thing, {}).setdefault(purpose, threading.RLock())


_guard = threading.Lock()
_locks: WeakKeyDictionary[Any, dict[Purpose, "threading.RLock"]] = WeakKeyDictionary()


def pass_by_pass(denoise: Callable[..., Tensor], model: nn.Module) -> Callable[..., Tensor]:
    """The same denoiser, in one thread at a time where a pass changes the model for its duration:
    LoRA layers are scaled, and torch.compile compiles."""
    if not has_loras(model) and not is_compiled(model):
        return denoise

    def alone(*args: Any, **kwargs: Any) -> Tensor:
        with alone_with(model):
            return denoise(*args, **kwargs)

    return alone


def has_loras(model: object) -> bool:
    return hasattr(model, "peft_config")


def is_offloaded(model: nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers bring its weights and take them away."""
    return hasattr(model, "_hf_hook") or hasattr(model, "_diffusers_hook")
