"""Errors of a run's processes that lost one of the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accelerate import Accelerator

from t2i.errors import TrainingError

LOST_PROCESS_MESSAGES = (
    "gloo/transport",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
)
"""Parts of the messages with which gloo, NCCL and torch's store say that another process ended."""


@contextmanager
def explaining_lost_process(accelerator: Accelerator, when: Callable[[], str]) -> Iterator[None]:
    """Turn an error within the block by which another process of the run is missed into a
    TrainingError: processes exchange data in a step, between steps and while one of them writes.

    when : words for what this process was doing, such as "after step 3"
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not is_lost_process_error(error):
            raise
        raise TrainingError(
            f"Another process of this run ended {when()}; its own message says why. The newest "
            "checkpoint is sound."
        ) from error


def is_lost_process_error(error: RuntimeError) -> bool:
    """Return True for an error by which gloo, NCCL or torch's store report that another process
    ended.
    """
    return any(part in str(error) for part in LOST_PROCESS_MESSAGES)
