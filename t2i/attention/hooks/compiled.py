"""Whether a model was compiled: what hooks say is then not heard where it was compiled without."""

from torch import nn


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has had a hand in it: a change of its layers would compile it again."""
    return any(
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or ("forward" in module.__dict__ and hasattr(module.forward, "_torchdynamo_orig_callable"))
        for module in model.modules()
    )
