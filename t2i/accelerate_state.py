"""What Accelerate keeps for a whole process: the caller's own within a block, as before after it.

Accelerate's first user in a process decides for all: a second `Accelerator` keeps the timeout, the
processes and the device of the first, and refuses another precision. So nobody here makes one, or a
`PartialState`, but in such a block.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import distributed

SHARED = (PartialState, AcceleratorState, GradientState)


@contextmanager
def own_state() -> Iterator[None]:
    """Within the block Accelerate is as in a fresh process; afterwards as it was before, with the
    variables, the number of threads and the excepthook that it and torch set.

    A group of this process alone that was made meanwhile is ended too. One of several processes is
    ended by who made it: where one of them fails the others may still wait in it.
    """
    before = [dict(kind._shared_state) for kind in SHARED]
    variables, threads, grouped = dict(os.environ), torch.get_num_threads(), is_grouped()
    excepthook = sys.excepthook
    refill([{} for _ in SHARED])
    try:
        yield
    finally:
        if is_grouped() and not grouped and distributed.get_world_size() == 1:
            distributed.destroy_process_group()
        refill(before)
        restore(variables)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if is_grouped() == grouped:
            sys.excepthook = excepthook  # that of a group says which process failed


def device() -> torch.device:
    """Where a pipeline of this process computes, as Accelerate chooses it."""
    grouped = is_grouped()
    with own_state():
        found: torch.device = PartialState().device
        if is_grouped() and not grouped:
            distributed.destroy_process_group()
    return found


@contextmanager
def own_randomness() -> Iterator[None]:
    """Within the block torch's global generators may be seeded; afterwards they go on as before.

    Those of the CPU and of the device in use.
    """
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or kind.type == "mps":  # of which torch's fork_rng knows nothing
        forked = torch.random.fork_rng([])
    else:
        forked = torch.random.fork_rng(
            [torch.accelerator.current_device_index()], device_type=kind.type
        )
    with forked:
        yield


def is_grouped() -> bool:
    """Whether this process stands in a group, with others or alone."""
    return distributed.is_available() and distributed.is_initialized()


def refill(states: list[dict[str, object]]) -> None:
    # In place: the objects that were made of a class have this very dict as their own.
    for kind, state in zip(SHARED, states, strict=True):
        kind._shared_state.clear()
        kind._shared_state.update(state)


def restore(variables: dict[str, str]) -> None:
    """The environment, one variable at a time: only what differs is touched."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
