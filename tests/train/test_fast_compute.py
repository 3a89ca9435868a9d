"""What a target is trained with for speed: eager attention in bfloat16 on a CPU, rounding alone."""

from typing import Any, cast

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from tests.tiny import tiny_unet
from train.loop_config import LoopConfig
from train.setup.fast_compute import set_memory_format_and_attention

CPU = torch.device("cpu")


def target_of(unet: UNet2DConditionModel) -> nn.Module:
    target = nn.Module()
    target.unet = unet
    return target


def kinds(unet: UNet2DConditionModel) -> set[type]:
    return {type(one) for one in unet.attn_processors.values()}


def gradient(unet: UNet2DConditionModel) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    side, width = cast("int", unet.config.sample_size), unet.config.cross_attention_dim
    latents = torch.randn(2, unet.config.in_channels, side, side, generator=random)
    text = torch.randn(2, 7, width, generator=random)
    unet.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        unet(latents, torch.tensor([10, 700]), text).sample.float().pow(2).mean().backward()
    return torch.cat([one.grad.flatten() for one in unet.parameters() if one.grad is not None])


def test_eager_attention_in_bf16_on_a_cpu_changes_the_gradient_by_rounding() -> None:
    unet = tiny_unet()
    fused = gradient(unet)
    set_memory_format_and_attention(
        target_of(unet), CPU, LoopConfig(steps=1, batch_size=1, precision="bf16")
    )
    assert kinds(unet) == {AttnProcessor}
    eager = gradient(unet)
    assert 0 < (eager - fused).norm() < 0.05 * fused.norm()


@pytest.mark.parametrize(
    ("device", "precision", "side"),
    [("cpu", "no", 16), ("cuda", "bf16", 16), ("cpu", "bf16", 64)],
)
def test_fused_attention_stays_where_eager_attention_gains_nothing_or_takes_memory(
    device: str, precision: Any, side: int
) -> None:
    unet = tiny_unet()
    unet.register_to_config(sample_size=side)
    loop = LoopConfig(steps=1, batch_size=1, precision=precision)
    set_memory_format_and_attention(target_of(unet), torch.device(device), loop)
    assert kinds(unet) == {AttnProcessor2_0}


def test_processors_of_other_kinds_stay() -> None:
    unet = tiny_unet()
    name = next(iter(unet.attn_processors))
    other = type("Other", (AttnProcessor2_0,), {})()
    unet.set_attn_processor({**unet.attn_processors, name: other})
    set_memory_format_and_attention(
        target_of(unet), CPU, LoopConfig(steps=1, batch_size=1, precision="bf16")
    )
    assert unet.attn_processors[name] is other
    assert kinds(unet) == {AttnProcessor, type(other)}


def test_a_target_without_a_unet_is_laid_out_channels_last() -> None:
    target = nn.Conv2d(3, 8, 3)
    loop = LoopConfig(steps=1, batch_size=1, precision="bf16", channels_last=True)
    set_memory_format_and_attention(target, CPU, loop)
    assert target.weight.is_contiguous(memory_format=torch.channels_last)
