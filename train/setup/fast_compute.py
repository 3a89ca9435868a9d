"""Memory layout and attention with which a target is trained fastest on its device."""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from train.loop_config import LoopConfig

MAX_LATENT_SIDE = 32
"""Largest side of latents for eager attention, whose maps are kept for the backward pass."""


def set_memory_format_and_attention(
    target: nn.Module, device: torch.device, config: LoopConfig
) -> None:
    """Set the target's memory format to channels last, if configured, and choose its UNet's
    attention processors, in place.
    """
    if config.channels_last:
        target.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_eager_attention_in_bf16_on_cpu(target, device, config.precision)


def use_eager_attention_in_bf16_on_cpu(
    target: nn.Module, device: torch.device, precision: str
) -> None:
    """Replace fused by eager attention processors in the target's UNet, where that is faster.

    The backward pass of torch's fused attention is slow in bfloat16 on a CPU: a training step of
    the embedded model takes 1.25 times as long with it (torch 2.13). In float32 the two are equally
    fast. Pictures and gradients differ by rounding.

    It is for UNets of at most 32 x 32 latents; others, and other devices and precisions, keep
    theirs.
    """
    unet = getattr(target, "unet", None)
    if device.type != "cpu" or precision != "bf16" or not isinstance(unet, UNet2DConditionModel):
        return
    side = unet.config.sample_size
    if max(side if isinstance(side, list | tuple) else (side,)) > MAX_LATENT_SIDE:
        return
    processors: dict[str, Any] = {
        name: AttnProcessor() if type(processor) is AttnProcessor2_0 else processor
        for name, processor in unet.attn_processors.items()
    }
    unet.set_attn_processor(processors)
