"""LoRA layers of text encoders at the strength that a call asks for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from torch import nn


@contextmanager
def lora_scaled(loaded: Sequence[nn.Module], scale: float | None) -> Iterator[None]:
    """Within the block the LoRA layers of models that have some weigh `scale` times what they are
    set to."""
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
