"""The depth of a UNet: its skip connections, and the modules beyond each of them."""

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from t2i.errors import ArgumentError

SUPPORTED_BLOCKS = (
    *(CrossAttnDownBlock2D, DownBlock2D, CrossAttnUpBlock2D, UpBlock2D),
    *(UNetMidBlock2D, UNetMidBlock2DCrossAttn),
)


@dataclass(frozen=True, slots=True)
class UNetDepth:
    """Skip connections of a UNet, numbered from the outermost, which is the output of conv_in.

    down : number of the skip connection that they make -> names of the modules that make it: a
        ResNet with its attention, or a downsampler
    up : number of the skip connection that they read -> names of a ResNet and its attention in an
        upward block
    adapters : number of a downward block -> the skip connection to which a T2I-Adapter adds there
    """

    down: tuple[tuple[str, ...], ...]
    up: tuple[tuple[str, ...], ...]
    adapters: tuple[int, ...]

    @property
    def num_skips(self) -> int:
        """Number of skip connections."""
        return len(self.up)

    @property
    def last_branch(self) -> int:
        """Largest branch of a cache, which leaves out at least a layer and the middle block."""
        return self.num_skips - 2

    def find_skip_of_adapter(self, number: int) -> int:
        """Return the skip connection to which a T2I-Adapter's feature of this number is added; the
        number of skip connections for the middle block.
        """
        return self.adapters[number] if number < len(self.adapters) else self.num_skips

    def list_deeper_modules(self, branch: int) -> list[str]:
        """Return the names of the modules that are beyond a skip connection, in the order of their
        calls; the last one's output enters the first layer that reads that connection.

        An upward block of which all layers are beyond it stands for its parts.
        """
        down = [name for names in self.down[branch + 1 :] for name in names]
        layers = list(reversed(self.up[branch + 1 :]))
        kept_block = self.up[branch][0].rsplit(".", 2)[0]
        up: list[str] = []
        for names in layers:
            block = names[0].rsplit(".", 2)[0]
            if block == kept_block:
                up += names
            elif block not in up:
                up.append(block)
        return [*down, "mid_block", *up]


def find_unet_depth(unet: nn.Module) -> UNetDepth:
    """Return the skip connections of a UNet; ArgumentError for a denoiser of other blocks."""
    if not isinstance(unet, UNet2DConditionModel):
        raise ArgumentError(
            f"Got a cache of deep blocks for a {type(unet).__name__}, which has none: expected a "
            "UNet2DConditionModel, as those of Stable Diffusion 1, 2 and XL. Leave the cache out."
        )
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    other = [type(block).__name__ for block in blocks if not isinstance(block, SUPPORTED_BLOCKS)]
    if other:
        raise ArgumentError(
            f"Got a cache of deep blocks for a UNet with a {other[0]}: expected blocks as those of "
            "Stable Diffusion 1, 2 and XL. Leave the cache out."
        )
    down: list[tuple[str, ...]] = [("conv_in",)]
    adapters: list[int] = []
    for number, block in enumerate(unet.down_blocks):
        start = f"down_blocks.{number}"
        down += _list_layers(start, block)
        adapters.append(len(down) - 1)
        if block.downsamplers is not None:
            down.append(tuple(f"{start}.downsamplers.{i}" for i in range(len(block.downsamplers))))
            if not hasattr(block, "attentions"):
                adapters[-1] += 1  # there it is added after the block
    up = [
        layer
        for number, block in enumerate(unet.up_blocks)
        for layer in _list_layers(f"up_blocks.{number}", block)
    ]
    return UNetDepth(tuple(down), tuple(reversed(up)), tuple(adapters))


def _list_layers(start: str, block: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of the modules of each layer of a block: a ResNet and its attention."""
    kinds = ("resnets", "attentions") if hasattr(block, "attentions") else ("resnets",)
    resnets = block.resnets
    assert isinstance(resnets, nn.ModuleList)
    return [tuple(f"{start}.{kind}.{number}" for kind in kinds) for number in range(len(resnets))]
