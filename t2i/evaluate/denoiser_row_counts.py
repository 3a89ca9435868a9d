"""Rows of denoiser calls: a cost of sampling that does not depend on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def recording_denoiser_row_counts(denoiser: nn.Module) -> Iterator[list[int]]:
    """Yield a list that receives the number of batch rows of each denoiser call in the block."""
    rows: list[int] = []
    hook = denoiser.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        hook.remove()
