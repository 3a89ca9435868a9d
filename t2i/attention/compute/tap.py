"""The tap: every attention of a model passes here while a session listens.

All denoisers end in one call, `torch.nn.functional.scaled_dot_product_attention`. While any
session is open that function is ours: it hands the call to whoever listens in this thread and
otherwise passes it on. The older processors, which compute their scores themselves, ask their
module's `get_attention_scores`; there the tap sits in the module.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2i.attention.compute.identity_rows import current_identity_rows


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """One call of attention: query (B, N, Q, E), key and value (B, N, K, E), and its options.

    mask : additive or bool, broadcast to (B, N, Q, K), or None
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    grouped: bool = False
    """Several heads of queries share one of keys."""

    def run_kernel(self, **changed: Tensor | None) -> Tensor:
        """The fused kernel, (B, N, Q, E)."""
        call = replace(self, **changed) if changed else self  # type: ignore[arg-type]
        return _kernel(
            call.query,
            call.key,
            call.value,
            attn_mask=call.mask,
            dropout_p=call.dropout,
            is_causal=call.causal,
            scale=call.scale,
            enable_gqa=call.grouped,
        )


def to_four_axes(mask: Tensor) -> Tensor:
    """(1 or B, 1 or N, 1 or Q, K)."""
    return mask[(None,) * (4 - mask.ndim)]


class AttentionHandler(Protocol):
    """Somebody who answers in the place of the kernel."""

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        """The output (B, N, Q, E)."""

    def handle_scores(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: "ScoresFunction",
        module: object,
    ) -> Tensor:
        """The probabilities, of the shape that `scores` gives them."""


ScoresFunction = Callable[..., Tensor]
"""(query, key, mask) -> probabilities, each with rows and heads in one axis."""

_kernel: Callable[..., Tensor] = functional.scaled_dot_product_attention
_listener: ContextVar[AttentionHandler | None] = ContextVar("listener", default=None)
_lock = threading.Lock()
_open = 0


@contextmanager
def listen(listener: AttentionHandler) -> Iterator[None]:
    """The attention inside, in this thread, is answered by `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def install_tap() -> Iterator[None]:
    """Attention passes through here; afterwards the very same function stands in torch again."""
    global _open, _kernel
    with _lock:
        if _open == 0:
            _kernel = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = attention
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                functional.scaled_dot_product_attention = _kernel


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What stands in torch while somebody listens; its arguments are those of torch."""
    # Sites that somebody listens to are never compiled.
    compiling = torch.compiler.is_compiling()
    listener = None if compiling else _listener.get()
    identity = None if compiling else current_identity_rows()
    if listener is None:
        out = _kernel(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    else:
        token = _listener.set(None)
        try:
            call = AttentionInputs(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            )
            out = listener.handle_attention(call)
        finally:
            _listener.reset(token)
    return out if identity is None else identity.replace_output(out, value)


@dataclass(slots=True)
class _TappedScores:
    """The method that a module had before the tap, and how many blocks have the tap in it."""

    scores: ScoresFunction
    own: Any
    """The method if it was the instance's own, as other libraries leave one there."""
    blocks: int = 0


_tapped_scores: WeakKeyDictionary[nn.Module, _TappedScores] = WeakKeyDictionary()


@contextmanager
def install_scores_tap(module: Any) -> Iterator[None]:
    """Pass the attention of a module that computes its scores itself (`get_attention_scores`).

    Several blocks, also of several threads, may have the tap in one module; the last one to end
    takes it out.
    """
    with _lock:
        tapped_scores = _tapped_scores.get(module)
        if tapped_scores is None:
            own = vars(module).get("get_attention_scores")
            tapped_scores = _TappedScores(module.get_attention_scores, own)
            _tapped_scores[module] = tapped_scores
            module.get_attention_scores = _tap_of_scores(module, tapped_scores.scores)
        tapped_scores.blocks += 1
    try:
        yield
    finally:
        with _lock:
            tapped_scores.blocks -= 1
            if tapped_scores.blocks == 0:
                del _tapped_scores[module]
                if tapped_scores.own is None:
                    del module.get_attention_scores
                else:
                    module.get_attention_scores = tapped_scores.own


def _tap_of_scores(module: Any, scores: ScoresFunction) -> ScoresFunction:
    def get_attention_scores(
        query: Tensor, key: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        listener, identity = _listener.get(), current_identity_rows()
        if listener is None:
            probs = scores(query, key, attention_mask)
        else:
            probs = listener.handle_scores(query, key, attention_mask, scores, module)
        return probs if identity is None else identity.replace_probabilities(probs, module.heads)

    return get_attention_scores
