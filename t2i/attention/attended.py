"""The maps of one call of attention, computed beside the kernel, in float32 at least.

N heads, Q query positions, K key positions, T text tokens, E width of a head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.effects import Effects, wide
from t2i.attention.site import Site
from t2i.attention.tap import Call
from t2i.errors import ArgumentError

NUMBERS_AT_ONCE = 1 << 24
"""Of a map that is computed: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Attended:
    """Who asked with what, after the edits that share; the other edits are in `effects`."""

    call: Call
    site: Site
    effects: Effects
    _known: dict[tuple[int, bool], Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Maps of the text, for the next probe that asks."""

    def maps(self, row: int) -> Tensor:
        """What the picture's positions of a row look at, (N, Q, T) over the text, or over all keys
        where there is no text; after all edits."""
        key = (row, torch.is_grad_enabled())
        if key not in self._known:
            columns = slice(None) if self.site.kind == "self" else slice(*self.site.text)
            parts = [part[..., columns] for part in self.parts(row, *self.site.image)]
            probs_NQT = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            if self.site.kind == "self":
                return probs_NQT
            self._known[key] = probs_NQT
        return self._known[key]

    def parts(self, row: int, first: int = 0, end: int | None = None) -> Iterator[Tensor]:
        """The row's map (N, Q, K), some queries at a time, after all edits."""
        heads, queries, keys = (*self.call.query.shape[1:3], self.call.key.shape[2])
        end = queries if end is None else end
        at_once = max(1, NUMBERS_AT_ONCE // (heads * keys))
        for start in range(first, end, at_once):
            yield self._edited(row, start, min(start + at_once, end))

    def _edited(self, row: int, first: int, end: int) -> Tensor:
        probs_NQK = self._scored(row, first, end)
        mix = self.effects.mixes.get(row)
        if mix is not None:
            begin, stop = self.site.text
            mixed_NQT = probs_NQK[..., begin:stop] * mix.kept.to(probs_NQK).unsqueeze(-2)
            if mix.columns is not None:
                source_NQT = self._scored(mix.source, first, end)[..., begin:stop]
                mixed_NQT = mixed_NQT + source_NQT @ mix.columns.to(source_NQT)
            probs_NQK = torch.cat(
                [probs_NQK[..., :begin], mixed_NQT, probs_NQK[..., stop:]], dim=-1
            )
        for function in self.effects.functions.get(row, ()):
            probs_NQK = of_same_shape(function(probs_NQK), probs_NQK)
        return probs_NQK

    def _scored(self, row: int | None, first: int, end: int) -> Tensor:
        assert row is not None
        call = self.call
        q_NQE, k_NKE = wide(call.query[row, :, first:end]), wide(call.key[row])
        if len(k_NKE) != len(q_NQE):  # several heads of queries share one of keys
            k_NKE = k_NKE.repeat_interleave(len(q_NQE) // len(k_NKE), dim=0)
        scale = 1 / math.sqrt(q_NQE.shape[-1]) if call.scale is None else call.scale
        scores_NQK = (q_NQE * scale) @ k_NKE.transpose(-1, -2)
        for added in (row_of_mask(call.mask, row), self.effects.bias.get(row)):
            if added is not None:
                part = added if added.shape[-2] == 1 else added[:, first:end]
                scores_NQK = scores_NQK + part.to(scores_NQK)
        if call.causal:
            queries, keys = call.query.shape[2], call.key.shape[2]
            seen = torch.ones(queries, keys, dtype=torch.bool, device=q_NQE.device).tril()
            scores_NQK = scores_NQK.masked_fill(~seen[first:end], -torch.inf)
        return scores_NQK.softmax(dim=-1)


def row_of_mask(mask: Tensor | None, row: int) -> Tensor | None:
    """What is added to the scores of a row, (1 or N, 1 or Q, K)."""
    if mask is None:
        return None
    while mask.ndim < 4:
        mask = mask[None]
    own = mask[row if len(mask) > 1 else 0]
    if own.dtype == torch.bool:
        own = torch.zeros(own.shape, device=own.device).masked_fill(~own, -torch.inf)
    return own


def of_same_shape(made: object, probs_NQK: Tensor) -> Tensor:
    if not isinstance(made, Tensor) or made.shape != probs_NQK.shape:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ArgumentError(
            f"A function of the map gave {got}, expected probabilities of the shape it was given, "
            f"{tuple(probs_NQK.shape)}: heads, positions, keys."
        )
    if not torch.isfinite(made).all():
        raise ArgumentError("A function of the map gave numbers that are not finite.")
    return made.to(probs_NQK)
