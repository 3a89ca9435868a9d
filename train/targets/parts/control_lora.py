"""LoRA of a ControlNet: its layers that the UNet has, too, keep their weights and get adapters."""

from copy import deepcopy
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from t2i.adapters.peft_layers import list_outermost_peft_layers, remove_lora
from t2i.randomness import derive_seed
from train.targets.parts.adapters import AdapterPartConfig, inject_adapter
from train.targets.parts.module_patterns import ModulePatterns

NEW_LAYERS = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
"""Modules of a ControlNet that its UNet does not have: they read the hint and write residuals."""
ADAPTER_NAME = "control"


class ControlLoraConfig(BaseModel):
    """Configuration of the LoRA of a ControlNet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """The adapter is scaled by alpha / rank; the rank when left out."""
    modules: ModulePatterns | None = Field(None, min_length=1)
    """Patterns over the names of the layers that get one; the attention projections when left
    out."""
    dora: bool = False
    """Train the magnitude of each weight's columns separately."""


def train_lora_and_new_layers(network: nn.Module, config: ControlLoraConfig, seed: int) -> None:
    """Inject a LoRA into a ControlNet, and let it and the layers that the UNet does not have be
    trained; the other weights stay as they are.

    Raises ArgumentError for patterns that match no layer which can have a LoRA.
    """
    torch.manual_seed(derive_seed(seed, "control lora"))
    part = AdapterPartConfig(
        rank=config.rank, alpha=config.alpha, modules=config.modules, dora=config.dora
    )
    network.requires_grad_(False)
    inject_adapter(part, {"unet": network}, ADAPTER_NAME, "target.lora")
    # NOTE a footgun: peft freezes all other weights where it injects.
    for name in NEW_LAYERS:
        network.get_submodule(name).requires_grad_(True)


def merge_lora_into_copy(network: Any) -> Any:
    """Return a copy of a ControlNet, in float32, with its LoRA merged into its weights, so that it
    has the layers of any other; the network itself without a LoRA.
    """
    if not list_outermost_peft_layers(network):
        return network
    merged = nn.Module.to(deepcopy(network), torch.float32)
    for _, layer in list_outermost_peft_layers(merged):
        layer.merge(safe_merge=True)
    remove_lora([merged])
    return merged
