"""Arguments of a module's call, by the names that its forward gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn


def bind_arguments(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the arguments of a module's forward call by parameter name, those of `**kwargs` among
    them.

    Positional arguments that the forward's signature cannot take are named _0, _1 and so on.
    """
    forward: Callable[..., object] = getattr(module, "_orig_mod", module).forward
    try:
        signature = _signature(forward)
        bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {**{f"_{number}": one for number, one in enumerate(args)}, **kwargs}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return bound


def _signature(forward: Callable[..., object]) -> inspect.Signature:
    """Return the signature, cached for a method: Python computes it anew at each call."""
    function = getattr(forward, "__func__", None)
    if function is None:
        return inspect.signature(forward)
    if function not in _signatures:
        _signatures[function] = inspect.signature(forward)
    return _signatures[function]


_signatures: WeakKeyDictionary[Callable[..., object], inspect.Signature] = WeakKeyDictionary()
