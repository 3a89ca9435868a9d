"""Rows of a self-attention whose attention map is the identity matrix.

B batch rows, R some of them, N heads, Q positions, E width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class IdentityAttentionRows:
    """Replaces the self-attention output of some batch rows by that of an identity map, as in PAG.

    Each position of these rows attends to itself alone. Serves one forward call of one module,
    whose attention may be computed at once or in slices along rows x heads.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.num_calls = 0
        self._num_scored = 0

    def replace_output(self, out: Tensor, value: Tensor) -> Tensor:
        """Return the attention output (B, N, Q, E) with these rows replaced by their values: the
        output of an identity attention map.
        """
        self.num_calls += 1
        # Not in place: a probe may hold the output.
        out = out.clone()
        out[self.rows] = value[self.rows].to(out)
        return out

    def replace_probabilities(self, probs: Tensor, heads: int) -> Tensor:
        """Return attention probabilities (rows x heads of a slice, Q, Q) with those of these rows
        set to the identity; slices of the batch come in order.
        """
        self.num_calls += 1
        first, self._num_scored = self._num_scored, self._num_scored + len(probs)
        indices = [row * heads + head - first for row in self.rows for head in range(heads)]
        indices = [index for index in indices if 0 <= index < len(probs)]
        if indices:
            probs = probs.clone()
            probs[indices] = torch.eye(probs.shape[-1]).to(probs)
        return probs


_identity_rows: ContextVar[IdentityAttentionRows | None] = ContextVar("identity_rows", default=None)


def get_identity_attention_rows() -> IdentityAttentionRows | None:
    """Return the identity rows that are active in this thread, or None."""
    return _identity_rows.get()


@contextmanager
def using_identity_attention_rows(rows: Sequence[int]) -> Iterator[IdentityAttentionRows]:
    """Replace these rows' attention maps by the identity within the block, in this thread."""
    current = IdentityAttentionRows(rows)
    token = _identity_rows.set(current)
    try:
        yield current
    finally:
        _identity_rows.reset(token)
