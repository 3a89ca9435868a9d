"""Scales of IP-Adapters by block of the UNet, also by the names that InstantStyle gave blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural

BlockScale = float | Sequence[float]
"""Scale of a block, or of each of its attention layers."""
ImagePromptScale = (
    float | str | Sequence[float] | Mapping[str, BlockScale | Mapping[str, BlockScale]]
)
"""Scale of one IP-Adapter: a number, one per image, names of blocks, or diffusers' dict."""

NAMED_BLOCKS: dict[str, tuple[str, str, int, int]] = {
    "layout": ("down", "block_2", 1, 2),
    "style": ("up", "block_0", 1, 3),
}
"""InstantStyle's name of an attention layer of SDXL -> side of the UNet, block, number of the layer
and how many the block has (Wang et al. 2024, Section 3.2, arXiv 2404.02733)."""
SCALE_EXAMPLE = '"style", "style+layout*0.5" or {"up": {"block_0": [0.0, 1.0, 0.0]}}'


def resolve_image_prompt_scale(scale: object, unet: Any) -> Any:
    """Return the scale of one IP-Adapter in diffusers' form: a number, one per image, or a dict by
    block.

    Raises ArgumentError for a block that the UNet does not have, or one without attention, and for
    what is no scale.
    """
    if isinstance(scale, str):
        return parse_block_names(scale, unet)
    if isinstance(scale, Mapping):
        check_block_scales(scale, unet)
        return {
            side: dict(value) if isinstance(value, Mapping) else value
            for side, value in scale.items()
        }
    if isinstance(scale, list | tuple):
        for number, one in enumerate(scale):
            check_scale(f"scale[{number}]", one)
        return list(scale)
    check_scale("scale", scale)
    return scale


def parse_block_names(text: str, unet: Any) -> dict[str, dict[str, list[float]]]:
    """Parse "style", "layout" or both, "style+layout*0.5", to diffusers' dict of scales by block;
    blocks that are not named get 0.

    Raises ArgumentError for unknown names, and for a UNet without these blocks, which SDXL's has.
    """
    scales: dict[str, dict[str, list[float]]] = {}
    for part in text.split("+"):
        name, _, factor = (side.strip() for side in part.partition("*"))
        if name not in NAMED_BLOCKS:
            raise ArgumentError(
                f"Got the scale {text!r:.80}. {suggest_choice(name[:80], NAMED_BLOCKS)} These "
                f"are blocks of SDXL; others are named by a dict: {SCALE_EXAMPLE}."
            )
        side, block, layer, count = NAMED_BLOCKS[name]
        layers = count_attention_layers(unet)[side]
        if layers.get(block) != count:
            raise ArgumentError(
                f"Got the scale {text!r:.80}, but this model's UNet is not SDXL's, whose "
                f"{side}.{block} has {count} attention layers: InstantStyle names blocks of "
                f"SDXL. Give a dict with those of this model: {describe_blocks(unet)}."
            )
        if block in scales.get(side, {}):
            raise ArgumentError(f"Got the scale {text!r:.80}, with {name} twice: keep one.")
        try:
            value = float(factor) if factor else 1.0
        except ValueError:
            raise ArgumentError(
                f"Got the scale {text!r:.80}: expected a number after *, as in {name}*0.5."
            ) from None
        check_scale(name, value)
        scales.setdefault(side, {})[block] = [
            value if number == layer else 0.0 for number in range(count)
        ]
    return scales


def check_block_scales(scales: Mapping[Any, Any], unet: Any) -> None:
    """Raise ArgumentError unless a dict of scales by block, in diffusers' form, names blocks of
    this UNet that have attention, with a number for each or one per layer.
    """
    layers = count_attention_layers(unet)
    for side, value in scales.items():
        if side not in ("down", "mid", "up"):
            raise ArgumentError(
                f"Got the scale of {side!r:.80}. {suggest_choice(str(side)[:80], layers)} "
                f"This model has {describe_blocks(unet)}."
            )
        if side == "mid" or not isinstance(value, Mapping):
            check_layer_scales(side, value, 1)
            continue
        for block, of_block in value.items():
            if block not in layers[side]:
                raise ArgumentError(
                    f"Got the scale of {side}.{block!s:.80}: the UNet has no such block with "
                    f"attention. This model has {describe_blocks(unet)}."
                )
            check_layer_scales(f"{side}.{block}", of_block, layers[side][block])


def check_layer_scales(name: str, value: object, layers: int) -> None:
    """Raise ArgumentError unless the scale of the block `name` is a number, or a list with one for
    each of its attention layers.
    """
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) not in (1, layers):
        raise ArgumentError(
            f"Got {plural(len(values), 'scale')} for {name}, which has "
            f"{plural(layers, 'attention layer')}: give one for each, or one number for all."
        )
    for one in values:
        check_scale(name, one)


def check_scale(name: str, value: object) -> None:
    """Raise ArgumentError unless the scale of an IP-Adapter, given as `name`, is a finite
    number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(
            f"Got {name}={value!r:.80} as the scale of an IP-Adapter, expected a finite number, "
            f"such as 0.8, or blocks: {SCALE_EXAMPLE}."
        )


def count_attention_layers(unet: Any) -> dict[str, dict[str, int]]:
    """Return the numbers of attention layers of the UNet's blocks that have any: "down", "mid" and
    "up" -> name of a block, "block_0", ... -> layers.
    """
    found = {
        side: {
            f"block_{number}": len(block.attentions)
            for number, block in enumerate(blocks)
            if hasattr(block, "attentions")
        }
        for side, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks))
    }
    mid = getattr(unet.mid_block, "attentions", ())
    return {"down": found["down"], "mid": {"mid": len(mid)}, "up": found["up"]}


def describe_blocks(unet: Any) -> str:
    """Return a description of the UNet's blocks with attention, for messages: "down.block_1 (2
    layers), mid, up.block_0 (3 layers)".
    """
    layers = count_attention_layers(unet)
    return ", ".join(
        "mid" if side == "mid" else f"{side}.{block} ({plural(count, 'layer')})"
        for side, blocks in layers.items()
        for block, count in blocks.items()
    )
