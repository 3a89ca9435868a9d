"""Tap: the replacement of scaled_dot_product_attention that calls the handler of this thread.

Every denoiser computes attention by `torch.nn.functional.scaled_dot_product_attention`. While any
session is open, that function is `tapped_attention`: it calls the handler that this thread has
set, or else the original kernel. Eager processors call their module's `get_attention_scores`
instead; there the tap replaces that method.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.compute.identity_rows import get_identity_attention_rows
from t2i.method_patches import MethodPatches


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """Arguments of one attention call: query (B, N, Q, E), key and value (B, N, K, E), options.

    mask : additive or bool, broadcastable to (B, N, Q, K), or None
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    grouped: bool = False
    """True if several query heads share one key head (grouped-query attention)."""

    def run_kernel(self, **changed: Tensor | None) -> Tensor:
        """Run torch's own scaled_dot_product_attention on these inputs, with some of them replaced,
        and return its output (B, N, Q, E).
        """
        inputs = replace(self, **changed) if changed else self  # type: ignore[arg-type]
        return _kernel(
            inputs.query,
            inputs.key,
            inputs.value,
            attn_mask=inputs.mask,
            dropout_p=inputs.dropout,
            is_causal=inputs.causal,
            scale=inputs.scale,
            enable_gqa=inputs.grouped,
        )


def add_leading_mask_axes(mask: Tensor) -> Tensor:
    """Return an attention mask with leading axes added: (1 or B, 1 or N, 1 or Q, K)."""
    return mask[(None,) * (4 - mask.ndim)]


class AttentionHandler(Protocol):
    """Interface of an object that computes the attention calls of one thread in place of torch's
    kernel.
    """

    def handle_attention(self, inputs: AttentionInputs) -> Tensor:
        """Compute an attention call in place of torch's kernel: return its output (B, N, Q, E)."""

    def compute_eager_probabilities(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: "ProbabilitiesFunction",
        module: object,
    ) -> Tensor:
        """Compute the attention probabilities of an eager processor's call, in place of its
        `get_attention_scores`.
        """


ProbabilitiesFunction = Callable[..., Tensor]
"""(query, key, mask) -> probabilities, each with rows and heads in one axis."""

_kernel: Callable[..., Tensor] = functional.scaled_dot_product_attention
_handler: ContextVar[AttentionHandler | None] = ContextVar("listener", default=None)
_lock = threading.Lock()
_open = 0


@contextmanager
def using_attention_handler(handler: AttentionHandler) -> Iterator[None]:
    """Route this thread's attention calls to `handler` within the block."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


@contextmanager
def tapping_attention() -> Iterator[None]:
    """Replace torch's scaled_dot_product_attention by `tapped_attention` within the block, and
    restore the original function afterwards.
    """
    global _open, _kernel
    with _lock:
        if _open == 0:
            _kernel = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = tapped_attention
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                functional.scaled_dot_product_attention = _kernel


def tapped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention by this thread's handler, or by torch's kernel if it has none. The
    arguments are those of scaled_dot_product_attention.
    """
    # Sites with a handler are never compiled.
    compiling = torch.compiler.is_compiling()
    handler = None if compiling else _handler.get()
    identity = None if compiling else get_identity_attention_rows()
    if handler is None:
        out = _kernel(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    else:
        token = _handler.set(None)
        try:
            inputs = AttentionInputs(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            )
            out = handler.handle_attention(inputs)
        finally:
            _handler.reset(token)
    return out if identity is None else identity.replace_output(out, value)


_score_patches = MethodPatches("get_attention_scores")


def tapping_eager_attention(module: Any) -> AbstractContextManager[object]:
    """Route a module's `get_attention_scores`, which eager attention processors call, to the
    thread's handler within the block.

    Several blocks, also of several threads, may have the tap in one module; the last one to end
    takes it out.
    """
    return _score_patches.replacing(module, partial(_tap_of_scores, module))


def _tap_of_scores(module: Any, scores: ProbabilitiesFunction) -> ProbabilitiesFunction:
    def get_attention_scores(
        query: Tensor, key: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        handler, identity = _handler.get(), get_identity_attention_rows()
        if handler is None:
            probs = scores(query, key, attention_mask)
        else:
            probs = handler.compute_eager_probabilities(query, key, attention_mask, scores, module)
        return probs if identity is None else identity.replace_probabilities(probs, module.heads)

    return get_attention_scores
