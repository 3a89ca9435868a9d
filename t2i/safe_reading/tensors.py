"""Reading of safetensors files from untrusted sources, with a bound on the header."""

import os
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from t2i.safe_reading.files import open_regular_file

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 16_000_000
"""Bytes; some ten times what is published."""


def open_tensors(
    path: str | os.PathLike[str], framework: Literal["pt", "numpy"] = "pt"
) -> safe_open:
    """Open a safetensors file with `safetensors.safe_open`, if its header is of bounded size.

    Raises OSError for anything but a regular file, SafetensorError for an incomplete file.
    """
    with open_regular_file(path) as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > MAX_HEADER_BYTES:
        raise SafetensorError(
            f"its header claims {claimed} bytes, expected at most {MAX_HEADER_BYTES}"
        )
    return safe_open(path, framework)


def read_tensors(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """Return all tensors of a safetensors file by name. Raises as `open_tensors` does."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}
