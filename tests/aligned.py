"""Weights at the beginning of pieces of memory, wherever they came from."""

from typing import Any

from torch import nn


def aligned(pipe: Any) -> Any:
    """The pipeline, its weights copied in place.

    NOTE some processors round a product otherwise where a matrix begins at another place in
    memory, and those of a mapped file begin anywhere. What is equal bit for bit whatever file it
    came from is compared so.
    """
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            for weight in (*part.parameters(), *part.buffers()):
                weight.data = weight.data.clone()
    return pipe
