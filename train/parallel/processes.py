"""The processes of a run: their Accelerator, and errors that reach all of them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import distributed

from t2i.accelerate_state import (
    is_process_group_initialized,
    isolated_accelerate_state,
    isolated_torch_rng,
)
from t2i.errors import ArgumentError, T2IError
from t2i.terminal import print_note_to_stderr
from train.loop_config import LoopConfig
from train.parallel import fsdp as sharding
from train.parallel.lost_processes import explaining_lost_process

Result = TypeVar("Result")
PROCESS_WAIT_TIMEOUT = timedelta(hours=3)
"""Time for which processes wait for one another. While the main process draws class pictures and
sheets, reads pictures or writes the model, the others wait: torch's ten minutes are too few."""

UNSUPPORTED_PLUGINS = {"MEGATRON_LM": "Megatron-LM", "PARALLELISM_CONFIG": "a parallelism_config"}
"""Plugins of an accelerate config that this loop does not support: variable -> name."""


def run_on_all_processes_and_gather(
    accelerator: Accelerator, action: Callable[[], Result]
) -> list[Result]:
    """Run an action on every process of a distributed run and return the results of all on each of
    them; a T2IError of one is raised on all.
    """
    results: list[tuple[Any, T2IError | None]]
    try:
        results = [(action(), None)]
    except T2IError as error:
        results = [(None, error)]
    if accelerator.num_processes > 1:
        results = gather_object(results)
    for _, failure in results:
        if failure is not None:
            raise failure
    return [result for result, _ in results]


def run_on_main_and_raise_on_all(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Run an action on the main process of a distributed run while the others wait; its result is
    dropped, and a T2IError of it is raised on all processes.
    """

    def act() -> None:
        if accelerator.is_main_process:
            action()

    run_on_all_processes_and_gather(accelerator, act)


def is_true_on_any_process(accelerator: Accelerator, value: bool) -> bool:
    """Return True, on every process of a run, if `value` is True on at least one of them; all
    processes must call this together.
    """
    if accelerator.num_processes == 1:
        return value
    flag = torch.tensor(float(value), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item())


def print_on_main_process(accelerator: Accelerator, text: str) -> None:
    """Print a line on stderr, on the main process alone."""
    if accelerator.is_main_process:
        print_note_to_stderr(text)


@contextmanager
def open_accelerator(loop: LoopConfig, optimizer: str) -> Iterator[Accelerator]:
    """Create the Accelerator of a run for the block, and restore Accelerate's global state
    afterwards.

    All processes leave the block together; an error by which one misses another becomes a
    TrainingError. Afterwards Accelerate, the environment and torch's
    global generators are as before, also after an exception. Raises ArgumentError where this
    process is in a process group already.

    optimizer : its name, as some optimizers cannot step sharded weights
    """
    with isolated_accelerate_state():
        check_no_process_group()
        accelerator = build_accelerator(loop, optimizer)
        with explaining_lost_process(accelerator, lambda: "outside of its steps"):
            with isolated_torch_rng():
                yield accelerator
            leave_process_group(accelerator)


def leave_process_group(accelerator: Accelerator) -> None:
    """Wait for the other processes of a run, then destroy its process group."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        # NOTE a footgun: gloo's threads drop the tensors of the last exchange a moment after it
        # is over, for which they need the interpreter's lock; destroying the group waits for
        # those threads while holding it. While asleep, this thread does not hold it.
        time.sleep(0.2)
    if is_process_group_initialized():
        # In a notebook's processes Accelerate keeps it, and the next run may begin there.
        distributed.destroy_process_group()


def check_no_process_group() -> None:
    """Raise ArgumentError where this process is in a torch process group already."""
    if is_process_group_initialized():
        raise ArgumentError(
            f"This process is in a process group already, of "
            f"{distributed.get_world_size()} over {distributed.get_backend()}. Its processes and "
            "timeout cannot be changed, and a run has its own: end that one first with "
            "torch.distributed.destroy_process_group(), or start the run from a fresh process."
        )


def build_accelerator(loop: LoopConfig, optimizer: str) -> Accelerator:
    """Build the Accelerator of a run: devices, precision, processes.

    Raises ArgumentError for an accelerate config or a batch size that the run cannot use.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ArgumentError(
            "The accelerate config asks for DeepSpeed, which steps the weights before their "
            "gradient can be checked. To shard them over processes use FSDP2: "
            "configs/accelerate/fsdp2.yaml; with fsdp_reshard_after_forward: false it is what "
            "DeepSpeed calls ZeRO stage 2."
        )
    for variable, name in UNSUPPORTED_PLUGINS.items():
        if os.environ.get(f"ACCELERATE_USE_{variable}", "false").lower() == "true":
            raise ArgumentError(
                f"The accelerate config asks for {name}, which this loop does not support: remove "
                "it. To shard the weights over processes use FSDP2: "
                "configs/accelerate/fsdp2.yaml."
            )
    asked = sharding.build_requested_fsdp_plugin()
    if asked is not None:
        sharding.check_fsdp_settings(asked, loop, optimizer)
    try:
        accelerator = Accelerator(
            mixed_precision=loop.precision,
            cpu=loop.device == "cpu",
            fsdp_plugin=asked,
            # The run's own config decides on these, not the accelerate config or its variables.
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=PROCESS_WAIT_TIMEOUT),
            ],
        )
    except ValueError as error:
        raise ArgumentError(f"train.precision = {loop.precision!r}: {error}") from error
    if loop.precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate accepts it and silently computes in float32.
        raise ArgumentError(
            "train.precision = 'fp16' needs an accelerator, and this run is on a CPU: "
            "set it to 'bf16' or 'no'."
        )
    parts = accelerator.num_processes * loop.accumulation
    if loop.batch_size % parts:
        raise ArgumentError(
            f"train.batch_size = {loop.batch_size} does not divide among "
            f"{accelerator.num_processes} processes x accumulation {loop.accumulation}: "
            f"choose a multiple of {parts}."
        )
    return accelerator
