"""A batch in pieces that fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from t2i.denoiser.memory_checks import is_out_of_memory
from t2i.errors import TrainingError
from train.batches.batch import Batch

SAID_BY_EXCHANGES = ("Connection closed by peer", "Connection reset by peer", "NCCL")
SAVE_MEMORY = (
    "Save memory by target.gradient_checkpointing = true, train.precision = 'bf16', a smaller "
    "data.size, or optimizer.name = 'adamw8bit' or 'adafactor'."
)


def is_lost_peer(error: BaseException) -> bool:
    """Whether the exchange with the other processes broke off."""
    return isinstance(error, RuntimeError) and any(s in str(error) for s in SAID_BY_EXCHANGES)


@contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Raise TrainingError, with the remedy, where there is too little memory within the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory {what}: {remedy}.") from error


def cut(batch: Batch, rows: int | None) -> list[Batch]:
    """The batch halved as often as it takes until no piece has more than `rows` rows."""
    count = len(batch.slots)
    if rows is None or count <= rows:
        return [batch]
    middle = (count + 1) // 2
    return [*cut(rows_of(batch, 0, middle), rows), *cut(rows_of(batch, middle, count), rows)]


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    by_row: dict[str, Any] = {
        name: value[start:stop]
        for name, value in values.items()
        if isinstance(value, Tensor | list)
    }
    return replace(batch, **by_row)
