"""Detection of models whose weights hooks move between devices."""

from torch import nn


def is_offloaded(model: nn.Module) -> bool:
    """Return True if hooks of accelerate or diffusers move the model's weights between devices."""
    return hasattr(model, "_hf_hook") or hasattr(model, "_diffusers_hook")
