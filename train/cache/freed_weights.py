"""Removal of the weights of a model from memory, and their restoration from another one."""

from torch import nn


def remove_weights(model: nn.Module) -> None:
    """Remove a model's parameters and buffers, in place, to free their memory."""
    for module in model.modules():
        module._parameters = dict.fromkeys(module._parameters)
        module._buffers = dict.fromkeys(module._buffers)


def restore_freed_weights(model: nn.Module, source: nn.Module) -> None:
    """Restore the weights of a model after `remove_weights` from another model of the same
    architecture.
    """
    found = dict(source.named_modules())
    for name, module in model.named_modules():
        module._parameters = dict(found[name]._parameters)
        module._buffers = dict(found[name]._buffers)


def has_freed_weights(model: nn.Module) -> bool:
    """Return True for a model without parameters, as `remove_weights` leaves it."""
    return next(model.parameters(), None) is None
