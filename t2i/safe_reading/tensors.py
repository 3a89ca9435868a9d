"""Weights that others wrote: a regular safetensors file with a header of bounded size."""

import os
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from t2i.safe_reading.files import regular

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 16_000_000
"""Bytes; some ten times what is published."""


def opened_tensors(
    path: str | os.PathLike[str], framework: Literal["pt", "numpy"] = "pt"
) -> safe_open:
    """The file as safetensors gives it, to be used as a context.

    Raises OSError for what is no regular file, SafetensorError for what is no whole safetensors.
    """
    with regular(path) as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > LARGEST_HEADER:
        raise SafetensorError(
            f"its header claims {claimed} bytes, expected at most {LARGEST_HEADER}"
        )
    return safe_open(path, framework)


def read_tensors(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """All tensors of a file. Raises as opened_tensors does."""
    with opened_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
