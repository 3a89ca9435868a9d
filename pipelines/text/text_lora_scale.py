"""Scaling of the LoRA layers of text encoders for one call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import nn


@contextmanager
def scaling_text_loras(loaded: Sequence[nn.Module], scale: float | None) -> Iterator[None]:
    """Scale the LoRA layers of these models by `scale` within the block."""
    if scale is None or not loaded:
        yield
        return
    for model in loaded:
        scale_lora_layers(model, scale)
    try:
        yield
    finally:
        for model in loaded:
            unscale_lora_layers(model, scale)
