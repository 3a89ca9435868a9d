"""Patches of single modules: wrappers and contexts of their forward, calls of compiled models.

B batch rows, N heads, Q query positions, E width of a head.
"""

import inspect
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from t2i.attention.compute.tap import AttentionInputs
from t2i.errors import AttentionError
from t2i.terminal import plural

BeforeCall = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
AfterCall = Callable[[nn.Module, tuple[Any, ...], object], None]
MakeCallContext = Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[object]]
"""(args, kwargs of a module's call) -> the context that its forward runs in."""
ForwardWrapper = Callable[..., Any]
"""(forward, args, kwargs of a module's call) -> output, from `forward(*args, **kwargs)` or not."""


@dataclass(slots=True)
class _PatchedForward:
    """A module's forward before it was patched, and the wrappers that its calls go through."""

    forward: Callable[..., Any]
    own: Any
    """The forward if it was the instance's own, as accelerate leaves one there."""
    wrappers: tuple[ForwardWrapper, ...] = ()


_patched: WeakKeyDictionary[nn.Module, _PatchedForward] = WeakKeyDictionary()
_replacements: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()
"""The same function at each patch: code that was compiled around it is not compiled again."""
_lock = threading.Lock()


@contextmanager
def wrapping_forward(module: nn.Module, wrapper: ForwardWrapper) -> Iterator[None]:
    """Replace each forward call of the module by `wrapper(forward, args, kwargs)` while the block
    is open; the wrapper decides whether the forward runs.

    The forward runs uncompiled. Several blocks, also of several threads, may wrap one module, the
    first outermost; the last one to end restores its forward. A wrapper is called in whatever
    thread the module is.
    """
    with _lock:
        patched = _patched.get(module)
        if patched is None:
            patched = _PatchedForward(module.forward, module.__dict__.get("forward"))
            _patched[module] = patched
            module.forward = _replacement(module)
        patched.wrappers = (*patched.wrappers, wrapper)
    try:
        yield
    finally:
        with _lock:
            patched.wrappers = tuple(one for one in patched.wrappers if one is not wrapper)
            if not patched.wrappers:
                # The forward first: a call of another thread that finds no patch goes on to it.
                if patched.own is None:
                    del module.forward
                else:
                    module.forward = patched.own
                del _patched[module]


def running_forward_in_context(
    module: nn.Module, make_context: MakeCallContext
) -> AbstractContextManager[None]:
    """Run each forward call of the module inside a context manager, a new `make_context(args,
    kwargs)` for each call, while the block is open; see `wrapping_forward`.
    """

    def run_in_context(
        forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with make_context(args, kwargs):
            return forward(*args, **kwargs)

    return wrapping_forward(module, run_in_context)


def _replacement(module: nn.Module) -> Callable[..., Any]:
    known = _replacements.get(module)
    if known is not None:
        return known
    reference = weakref.ref(module)  # a strong one would keep the module for ever

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def run(*args: Any, **kwargs: Any) -> Any:
        own = reference()
        assert own is not None
        patched = _patched.get(own)
        if patched is None:  # restored just now, by another thread
            return own.forward(*args, **kwargs)
        call = patched.forward
        for wrapper in reversed(patched.wrappers):
            call = partial(_call_wrapper, wrapper, call)
        return call(*args, **kwargs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    forward.__signature__ = inspect.signature(module.forward)  # type: ignore[attr-defined]
    _replacements[module] = forward
    return forward


def _call_wrapper(
    wrapper: ForwardWrapper, forward: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    return wrapper(forward, args, kwargs)


def build_eager_attention_inputs(query: Tensor, key: Tensor, module: Any) -> AttentionInputs:
    """Return the attention inputs of an eager attention processor: its query and key, (rows *
    heads, Q or K, E), with rows and heads as two axes.

    Raises AttentionError where it slices the batch, so that rows cannot be told apart.
    """
    heads = int(module.heads)
    if len(query) % heads:
        raise AttentionError(
            f"A processor asks for the scores of {plural(len(query), 'row')} at a time in a "
            f"module of {plural(heads, 'head')}, a slice of the batch, and a map of its own row "
            "cannot be told. Switch it off with pipe.disable_attention_slicing()."
        )
    query, key = (one.unflatten(0, (-1, heads)) for one in (query, key))
    return AttentionInputs(
        query, key, key, scale=getattr(module, "scale", 1 / math.sqrt(query.shape[-1]))
    )


@contextmanager
def hooking_compiled_calls(
    root: nn.Module, before: BeforeCall | None, after: AfterCall
) -> Iterator[None]:
    """Call `before` and `after` around each call of a model that was compiled in place.

    Hooks do not run in such models; for others this does nothing. `after` gets None as the output
    where the model raised.
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
