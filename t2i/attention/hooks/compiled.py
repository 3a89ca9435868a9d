"""Detection of models that torch.compile has compiled; hooks added later do not run in them."""

from torch import nn


def is_compiled(model: nn.Module) -> bool:
    """Return True if torch.compile compiled the model or a part of it.

    A change of its layers would compile it again.
    """
    return any(
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or ("forward" in module.__dict__ and hasattr(module.forward, "_torchdynamo_orig_callable"))
        for module in model.modules()
    )
