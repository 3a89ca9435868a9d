"""Strengths of a control in the UNet's blocks: by its mode, and as its user sets them."""

from collections.abc import Mapping
from typing import Any

from t2i.controls.control import Control

DECAY_PER_RESIDUAL = 0.825
"""Ratio of the strengths of two neighbouring residuals in the modes "prompt" and "control"."""


ADAPTER_SCALES = (0.25, 0.62, 0.825, 1.0)
"""Strengths of an adapter's features in the modes "prompt" and "control", A1111's; one of fewer
features has the last of them."""


def list_block_of_each_residual(control: Control) -> list[str]:
    """Return the name of the UNet block that each residual (ControlNet) or feature (T2I-Adapter) of
    a control is added to, in their order.
    """
    config = control.network.config
    return (
        list_feature_blocks(config)
        if control.is_adapter
        else list_block_of_each_controlnet_residual(config)
    )


def list_feature_blocks(config: Mapping[str, Any]) -> list[str]:
    """Return the UNet block that each of a T2I-Adapter's features is added to; the last of SDXL's
    is the middle block.
    """
    blocks = [f"down.{index}" for index in range(len(config["channels"]))]
    return [*blocks[:-1], "mid"] if config["adapter_type"] == "full_adapter_xl" else blocks


def list_block_of_each_controlnet_residual(config: Mapping[str, Any]) -> list[str]:
    """Return the UNet block that each residual of a ControlNet is added to: "down.0", ..., "mid".

    The residual of the first convolution counts to "down.0", and that of a block's downsampling to
    the block.
    """
    layers = config["layers_per_block"]
    count = len(config["block_out_channels"])
    per_block = [layers] * count if isinstance(layers, int) else list(layers)
    blocks = ["down.0"]
    for block, own in enumerate(per_block):
        downsamples = block < count - 1
        blocks += [f"down.{block}"] * (own + downsamples)
    return [*blocks, "mid"]


def compute_decay_per_residual(num_residuals: int) -> list[float]:
    """Return the factors .825^(last - i) of a ControlNet's residuals in the modes "prompt" and
    "control": 1 for the last, of the deepest block.
    """
    return [DECAY_PER_RESIDUAL ** (num_residuals - 1 - index) for index in range(num_residuals)]


def compute_residual_scales(control: Control) -> list[float] | None:
    """Return the factor of each ControlNet residual or adapter feature beyond the control's
    `scale`; None where all are 1.
    """
    blocks = list_block_of_each_residual(control)
    decays = control.mode in ("prompt", "control")
    named = control.block_scales
    if not decays and named is None:
        return None
    scales = [1.0] * len(blocks)
    if decays:
        scales = (
            [*ADAPTER_SCALES[-len(blocks) :]]
            if control.is_adapter
            else compute_decay_per_residual(len(blocks))
        )
    if named is not None:
        scales = [
            scale * named.get(block, 0.0) for scale, block in zip(scales, blocks, strict=True)
        ]
    return scales
