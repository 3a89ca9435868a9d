"""A LoRA and a ControlNet of the embedded model, small and strong enough to be seen."""

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

from t2i.denoiser.loading.model_location import EMBEDDED_MODELS

LAYER = "unet.up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_v"
WIDTH, TEXT_WIDTH = 96, 256


def write_lora(path: Path) -> Path:
    """Write a LoRA of rank 2 on one layer of the embedded model."""
    generator = torch.Generator().manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = {
        f"{LAYER}.lora_A.weight": torch.randn(2, TEXT_WIDTH, generator=generator),
        f"{LAYER}.lora_B.weight": torch.randn(WIDTH, 2, generator=generator) * 0.2,
    }
    save_file(layers, path)
    return path


def write_control_network(path: Path) -> Path:
    """Write a ControlNet that fits the embedded UNet, with random outputs."""
    unet = UNet2DConditionModel.from_config(
        UNet2DConditionModel.load_config(EMBEDDED_MODELS["embedded"] / "unet")
    )
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 8, 8, 16), load_weights_from_unet=False
    )
    for name, weight in network.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(weight, std=0.05)
    network.save_pretrained(path)
    return path
