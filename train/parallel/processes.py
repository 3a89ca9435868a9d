"""The processes of a run: what Accelerate gives them, and how they fail together."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import distributed

from t2i.accelerate_state import in_process_group, isolated_accelerate_state, isolated_rng
from t2i.errors import ArgumentError, T2IError
from t2i.terminal import print_note
from train.loop_config import LoopConfig
from train.parallel import fsdp as sharding

Result = TypeVar("Result")
PATIENCE = timedelta(hours=3)
"""For which processes wait for one another. The main one draws class pictures and sheets, looks at
every picture and writes the model while the others do nothing: torch's ten minutes are too few."""

FOREIGN = {"MEGATRON_LM": "Megatron-LM", "PARALLELISM_CONFIG": "a parallelism_config"}
"""What else an accelerate config may switch on, and its name there."""


def together(accelerator: Accelerator, action: Callable[[], Result]) -> list[Result]:
    """What the action gave on each process; what it raised on one is raised on all."""
    told: list[tuple[Any, T2IError | None]]
    try:
        told = [(action(), None)]
    except T2IError as error:
        told = [(None, error)]
    if accelerator.num_processes > 1:
        told = gather_object(told)
    for _, failure in told:
        if failure is not None:
            raise failure
    return [made for made, _ in told]


def on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Let the main process act while the others wait; what it raises is raised on all of them."""

    def act() -> None:
        if accelerator.is_main_process:
            action()

    together(accelerator, act)


def say(accelerator: Accelerator, text: str) -> None:
    """A line, once."""
    if accelerator.is_main_process:
        print_note(text)


@contextmanager
def accelerated(loop: LoopConfig, optimizer: str) -> Iterator[Accelerator]:
    """Devices, precision and processes as the run says, whatever this process did before.

    All processes leave the block together. Afterwards Accelerate, the environment and torch's
    global generators are as before it, also after an exception. Raises ArgumentError for a process
    that stands in a group already.
    """
    with isolated_accelerate_state():
        check_no_group()
        accelerator = accelerator_of(loop, optimizer)
        with isolated_rng():
            yield accelerator
        leave(accelerator)


def leave(accelerator: Accelerator) -> None:
    """End the run on every process, together."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        # NOTE a footgun: gloo's threads drop the tensors of the last exchange a moment after it
        # is over, for which they need the interpreter's lock; to take the group down waits for
        # those threads while holding it. Asleep, we hold nothing.
        time.sleep(0.2)
    if in_process_group():
        # Accelerate leaves it standing in a notebook's processes, where the next run may begin.
        distributed.destroy_process_group()


def check_no_group() -> None:
    """Raise ArgumentError where this process stands in a group: its timeout is not the run's."""
    if in_process_group():
        raise ArgumentError(
            f"This process stands in a process group already, of "
            f"{distributed.get_world_size()} over {distributed.get_backend()}. Its processes and "
            "timeout cannot be changed, and a run has its own: end that one first with "
            "torch.distributed.destroy_process_group(), or start the run from a fresh process."
        )


def accelerator_of(loop: LoopConfig, optimizer: str) -> Accelerator:
    """Devices, precision and processes; checks that a batch divides among them."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ArgumentError(
            "The accelerate config asks for DeepSpeed, which steps the weights before their "
            "gradient was looked at. To split them among processes use FSDP2: "
            "configs/accelerate/fsdp2.yaml; with fsdp_reshard_after_forward: false it is what "
            "DeepSpeed calls ZeRO stage 2."
        )
    for wish, name in FOREIGN.items():
        if os.environ.get(f"ACCELERATE_USE_{wish}", "false").lower() == "true":
            raise ArgumentError(
                f"The accelerate config asks for {name}, which this loop does not do: leave it "
                "out. To split the weights among processes use FSDP2: "
                "configs/accelerate/fsdp2.yaml."
            )
    asked = sharding.plugin()
    if asked is not None:
        sharding.check_plugin(asked, loop, optimizer)
    try:
        accelerator = Accelerator(
            mixed_precision=loop.precision,
            cpu=loop.device == "cpu",
            fsdp_plugin=asked,
            # What else an accelerate config or variable may ask for is the run's to say.
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    except ValueError as error:
        raise ArgumentError(f"train.precision = {loop.precision!r}: {error}") from error
    if loop.precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate takes it and computes in float32 without a word.
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
