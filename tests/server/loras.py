"""A LoRA of the embedded model, small and strong enough to be seen."""

from pathlib import Path

import torch
from safetensors.torch import save_file

LAYER = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
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
