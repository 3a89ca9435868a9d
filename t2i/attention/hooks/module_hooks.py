"""What a session does to single modules: it listens there, around them, and asks what they are.

B batch rows, N heads, Q query positions, E width of a head.
"""

import inspect
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from t2i.attention.compute.tap import AttentionHandler, AttentionInputs, listen
from t2i.errors import AttentionError
from t2i.terminal import several

Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
After = Callable[[nn.Module, tuple[Any, ...], object], None]


@contextmanager
def listening(module: nn.Module, listener: AttentionHandler) -> Iterator[None]:
    """The attention inside the module's forward is answered by `listener`.

    It runs uncompiled, and everything around it as before.
    """
    before, around = module.__dict__.get("forward"), _answers.get(module)
    _answers[module] = (module.forward, listener)
    module.forward = _forward_of(module)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
        if around is None:
            del _answers[module]
        else:
            _answers[module] = around


_answers: WeakKeyDictionary[nn.Module, tuple[Callable[..., Any], AttentionHandler]] = (
    WeakKeyDictionary()
)
"""Of each module that is listened to: its own forward, and who answers."""
_forwards: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()
"""The same function in every session: what is compiled around it need not be compiled again."""


def _forward_of(module: nn.Module) -> Callable[..., Any]:
    known = _forwards.get(module)
    if known is not None:
        return known
    reference = weakref.ref(module)  # a strong one would keep the module for ever

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def answered(*args: Any, **kwargs: Any) -> Any:
        own = reference()
        assert own is not None
        answer = _answers.get(own)
        if answer is None:  # taken away just now, by another thread whose session it was
            return own.forward(*args, **kwargs)
        inner, listener = answer
        with listen(listener):
            return inner(*args, **kwargs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return answered(*args, **kwargs)

    forward.__signature__ = inspect.signature(module.forward)  # type: ignore[attr-defined]
    _forwards[module] = forward
    return forward


def of_heads(query: Tensor, key: Tensor, module: Any) -> AttentionInputs:
    """What a processor asks scores of, (rows * heads, Q, E), by rows and heads."""
    heads = int(module.heads)
    if len(query) % heads:
        raise AttentionError(
            f"A processor asks for the scores of {several(len(query), 'row')} at a time in a "
            f"module of {several(heads, 'head')}, a slice of the batch, and a map of its own row "
            "cannot be told. Switch it off with pipe.disable_attention_slicing()."
        )
    query, key = (one.unflatten(0, (-1, heads)) for one in (query, key))
    return AttentionInputs(
        query, key, key, scale=getattr(module, "scale", 1 / math.sqrt(query.shape[-1]))
    )


@contextmanager
def wrapped_call(root: nn.Module, before: Before | None, after: After) -> Iterator[None]:
    """Around the calls of a model that was compiled in place: hooks are compiled away there.

    Does nothing for other models. `after` is told None where the model raised.
    """
    inner = root._compiled_call_impl
    if inner is None:
        yield
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        output = None
        if before is not None:
            before(root, args, kwargs)
        try:
            output = inner(*args, **kwargs)
            return output
        finally:
            after(root, args, output)

    root._compiled_call_impl = call
    try:
        yield
    finally:
        root._compiled_call_impl = inner
