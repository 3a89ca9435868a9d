"""Processes started by `accelerate launch` or torchrun, and results broadcast by the main one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from t2i.cli.output import print_remark
from t2i.errors import T2IError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def read_launcher_rank() -> int:
    """Return this process's rank from the launcher's environment, or 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def read_launcher_process_count() -> int:
    """Return the number of processes from the launcher's environment, or 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def distributed_process_group() -> "Iterator[PartialState]":
    """Join the process group of the launcher within the block, and yield accelerate's state of it.

    Processes communicate over gloo where there is no accelerator. Without a launcher it is one.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env
    from torch import distributed

    from t2i.accelerate_state import is_process_group_initialized, isolated_accelerate_state

    on_cpu, grouped = parse_flag_from_env("ACCELERATE_USE_CPU"), is_process_group_initialized()
    with isolated_accelerate_state():
        state = PartialState(cpu=on_cpu or not torch.accelerator.is_available())
        if on_cpu and state.num_processes == 1 and "MASTER_PORT" in os.environ:
            print_remark(
                "Warning: `accelerate launch --cpu` starts several processes only through MPI; "
                "this is one. Use `accelerate launch --multi_gpu` (it takes CPUs too) or torchrun."
            )
        try:
            yield state
        finally:
            if is_process_group_initialized() and not grouped:
                distributed.destroy_process_group()


def run_in_main_and_broadcast(state: "PartialState", action: Callable[[], T]) -> T:
    """Run `action` in the main process only and return its result in all processes.

    Where it fails, the main process raises its error and the others exit with its code.
    """
    from accelerate.utils import broadcast_object_list

    answer: list[T | T2IError] = []
    if state.is_main_process:
        try:
            answer = [action()]
        except T2IError as error:
            answer = [error]
    if state.num_processes > 1:
        answer = answer or [T2IError()]  # a place for what comes
        broadcast_object_list(answer)
    if isinstance(answer[0], T2IError):
        if state.is_main_process:
            raise answer[0]
        raise typer.Exit(answer[0].exit_code)  # the main process says why
    return answer[0]
