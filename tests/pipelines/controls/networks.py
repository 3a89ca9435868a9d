"""Tiny ControlNets with random weights in every layer: a fresh one adds only zeros."""

from typing import Any

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from PIL import Image


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 5, **config: Any) -> ControlNetModel:
    """A ControlNet for a tiny UNet with four pixels to a latent."""
    torch.manual_seed(seed)
    kept = (
        *("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim"),
        *("attention_head_dim", "norm_num_groups", "addition_embed_type"),
        *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
        "transformer_layers_per_block",
    )
    settings: dict[str, Any] = {name: unet.config[name] for name in kept}
    settings |= {"in_channels": 4, "conditioning_embedding_out_channels": (8, 8, 16)}
    network = ControlNetModel(**(settings | config))
    for name, weight in network.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return network.eval()


def hint(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Random colours."""
    pixels = torch.rand(size[1], size[0], 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((pixels * 255).byte().numpy())


def tiny_adapter(unet: UNet2DConditionModel, seed: int = 5, **config: Any) -> T2IAdapter:
    """A T2I-Adapter for a UNet of Stable Diffusion's or XL's blocks, four pixels to a latent."""
    torch.manual_seed(seed)
    widths = tuple(unet.config["block_out_channels"])
    is_xl = len(widths) == 3 and unet.config["down_block_types"][0] == "DownBlock2D"
    settings: dict[str, Any] = {
        "in_channels": 3,
        "channels": [*widths, widths[-1]] if is_xl else [*widths],
        "num_res_blocks": 1,
        # XL's begins at half the latents' size, where the first block has no attention.
        "downscale_factor": 8 if is_xl else 4,
        "adapter_type": "full_adapter_xl" if is_xl else "full_adapter",
    }
    return T2IAdapter(**(settings | config)).eval()


class CalledWith:
    """A pipeline that is called with further arguments of its own."""

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call, self.vae = pipe, call, pipe.vae

    def set_progress_bar_config(self, **options: Any) -> None:
        self.pipe.set_progress_bar_config(**options)

    def __call__(self, **call: Any) -> Any:
        return self.pipe(**(call | self.call))
