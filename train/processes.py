"""The processes of a run: what Accelerate gives them, and how they fail together."""

import time
from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, gather_object

from t2i.errors import ArgumentError, T2IError
from train.config import RunConfig


def on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Let the main process act while the others wait; what it raises is raised on all of them."""
    failure: list[T2IError] = []
    if accelerator.is_main_process:
        try:
            action()
        except T2IError as error:
            failure = [error]
    if accelerator.num_processes > 1:
        failure = gather_object(failure)
    if failure:
        raise failure[0]


def leave(accelerator: Accelerator) -> None:
    """End the run on every process, together."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        # NOTE a footgun: gloo's threads drop the tensors of the last exchange a moment after it
        # is over, for which they need the interpreter's lock; to take the group down waits for
        # those threads while holding it. Asleep, we hold nothing.
        time.sleep(0.2)
    accelerator.end_training()


def accelerator_of(config: RunConfig) -> Accelerator:
    """Devices, precision and processes; checks that a batch divides among them."""
    try:
        accelerator = Accelerator(
            mixed_precision=config.train.precision,
            cpu=config.train.device == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise ArgumentError(f"train.precision = {config.train.precision!r}: {error}") from error
    if config.train.precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate takes it and computes in float32 without a word.
        raise ArgumentError(
            "train.precision = 'fp16' needs an accelerator, and this run is on a CPU: "
            "set it to 'bf16' or 'no'."
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ArgumentError(
            f"The accelerate config asks for {accelerator.distributed_type.value}, which shards "
            "the weights; this loop keeps them whole on every process. Choose plain data "
            "parallelism with `accelerate config`."
        )
    parts = accelerator.num_processes * config.train.accumulation
    if config.train.batch_size % parts:
        raise ArgumentError(
            f"train.batch_size = {config.train.batch_size} does not divide among "
            f"{accelerator.num_processes} processes x accumulation {config.train.accumulation}: "
            f"choose a multiple of {parts}."
        )
    return accelerator
