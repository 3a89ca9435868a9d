"""Isolation of Accelerate's process-wide state.

Accelerate's first user in a process decides for all: a second `Accelerator` keeps the timeout, the
processes and the device of the first, and refuses another precision. Therefore every `Accelerator`
and `PartialState` of this project is made inside `isolated_accelerate_state`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import distributed

SHARED_STATE_CLASSES = (PartialState, AcceleratorState, GradientState)


@contextmanager
def isolated_accelerate_state() -> Iterator[None]:
    """Give Accelerate a fresh state inside the context and restore the previous one afterwards.

    Environment variables, thread count and excepthook that Accelerate and torch set are restored
    too. A process group of this process alone that was made inside is destroyed; a group of several
    processes is destroyed by whoever made it: where one fails, the others may still wait in it.
    """
    before = [dict(kind._shared_state) for kind in SHARED_STATE_CLASSES]
    variables, threads, grouped = (
        dict(os.environ),
        torch.get_num_threads(),
        is_process_group_initialized(),
    )
    excepthook = sys.excepthook
    _replace_states([{} for _ in SHARED_STATE_CLASSES])
    try:
        yield
    finally:
        if is_process_group_initialized() and not grouped and distributed.get_world_size() == 1:
            distributed.destroy_process_group()
        _replace_states(before)
        _restore_environment(variables)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if is_process_group_initialized() == grouped:
            sys.excepthook = excepthook  # that of a group says which process failed


def default_device() -> torch.device:
    """Return the torch device that Accelerate chooses for this process."""
    grouped = is_process_group_initialized()
    with isolated_accelerate_state():
        found: torch.device = PartialState().device
        if is_process_group_initialized() and not grouped:
            distributed.destroy_process_group()
    return found


@contextmanager
def isolated_torch_rng() -> Iterator[None]:
    """Restore torch's global generators (CPU and current device) after the context."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or kind.type == "mps":  # of which torch's fork_rng knows nothing
        forked = torch.random.fork_rng([])
    else:
        forked = torch.random.fork_rng(
            [torch.accelerator.current_device_index()], device_type=kind.type
        )
    with forked:
        yield


def is_process_group_initialized() -> bool:
    """Return True if torch.distributed is initialized in this process."""
    return distributed.is_available() and distributed.is_initialized()


def _replace_states(states: list[dict[str, object]]) -> None:
    # In place: the objects that were made of a class have this very dict as their own.
    for kind, state in zip(SHARED_STATE_CLASSES, states, strict=True):
        kind._shared_state.clear()
        kind._shared_state.update(state)


def _restore_environment(variables: dict[str, str]) -> None:
    """Restore environment variables; only those that differ are touched."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
