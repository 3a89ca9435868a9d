"""Splitting of micro-batches into pieces that fit into memory, and errors of those that do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import TrainingError
from train.batches.micro_batch import MicroBatch

SAVE_MEMORY_HINT = (
    "Save memory by target.gradient_checkpointing = true, train.precision = 'bf16', a smaller "
    "data.size, or optimizer.name = 'adamw8bit' or 'adafactor'."
)


@contextmanager
def explaining_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error within the block into a TrainingError that names the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory {what}: {remedy}.") from error


def split_micro_batch(batch: MicroBatch, rows: int | None) -> list[MicroBatch]:
    """Split a micro-batch by halving until no piece has more than `rows` rows; None keeps it."""
    count = len(batch.slots)
    if rows is None or count <= rows:
        return [batch]
    middle = (count + 1) // 2
    return [
        *split_micro_batch(slice_micro_batch_rows(batch, 0, middle), rows),
        *split_micro_batch(slice_micro_batch_rows(batch, middle, count), rows),
    ]


def slice_micro_batch_rows(batch: MicroBatch, start: int, stop: int) -> MicroBatch:
    """Return a micro-batch of the rows from `start` up to `stop` of another one."""
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    by_row: dict[str, Any] = {
        name: value[start:stop]
        for name, value in values.items()
        if isinstance(value, Tensor | list)
    }
    return replace(batch, **by_row)
