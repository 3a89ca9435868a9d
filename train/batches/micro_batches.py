"""Splitting a batch into pieces that fit into memory, and the errors of those that do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import TrainingError
from train.batches.batch import Batch

LOST_PEER_MESSAGES = ("Connection closed by peer", "Connection reset by peer", "NCCL")
"""Parts of the messages with which gloo and NCCL report that another process ended."""
SAVE_MEMORY_HINT = (
    "Save memory by target.gradient_checkpointing = true, train.precision = 'bf16', a smaller "
    "data.size, or optimizer.name = 'adamw8bit' or 'adafactor'."
)


def is_lost_process_error(error: BaseException) -> bool:
    """Return True for an error by which gloo or NCCL reports that another process ended."""
    return isinstance(error, RuntimeError) and any(s in str(error) for s in LOST_PEER_MESSAGES)


@contextmanager
def explaining_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error within the block into a TrainingError that names the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory {what}: {remedy}.") from error


def split_batch(batch: Batch, rows: int | None) -> list[Batch]:
    """Split a batch by halving until no piece has more than `rows` rows; None leaves it whole."""
    count = len(batch.slots)
    if rows is None or count <= rows:
        return [batch]
    middle = (count + 1) // 2
    return [
        *split_batch(slice_batch_rows(batch, 0, middle), rows),
        *split_batch(slice_batch_rows(batch, middle, count), rows),
    ]


def slice_batch_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return a batch of the rows from `start` up to `stop` of another batch."""
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    by_row: dict[str, Any] = {
        name: value[start:stop]
        for name, value in values.items()
        if isinstance(value, Tensor | list)
    }
    return replace(batch, **by_row)
