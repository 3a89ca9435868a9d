"""The maps of one call of attention, computed beside the kernel, in float32 at least.

N heads, Q query positions, K key positions, T text tokens, S some of them, E width of a head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import EditPlan, upcast
from t2i.attention.compute.tap import AttentionInputs, to_four_axes
from t2i.attention.site import Site
from t2i.errors import ArgumentError

NUMBERS_AT_ONCE = 1 << 24
"""Of a map that is computed: 64 MiB."""
LEAST = 1e-12
"""Of a probability that others are divided by."""


@dataclass(frozen=True, slots=True)
class AttentionProbabilities:
    """Who asked with what, after the edits that share; the other edits are in `effects`."""

    inputs: AttentionInputs
    site: Site
    plan: EditPlan
    _known: dict[tuple[int, bool], Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Maps of the text, for the next probe that asks."""
    _weights: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def token_probabilities(self, row: int, places_S: Tensor) -> Tensor:
        """How much a row's positions look at some tokens of the text, (N, S, Q), after all
        edits."""
        if self._softmax_is_left(row):
            weights_NTQ, total_N1Q = self._weighed(row)
            return weights_NTQ.index_select(1, places_S) / total_N1Q
        return self.attention_map(row).index_select(-1, places_S).transpose(-1, -2)

    def relative_probability(self, row: int, places_S: Tensor, heads: list[int] | None) -> Tensor:
        """The same in proportion to the token that is looked at most, a mean over heads,
        (1, S, Q)."""
        if self._softmax_is_left(row):
            weights_NSQ = self._weighed(row)[0].index_select(1, places_S)
            chosen_NSQ = weights_NSQ if heads is None else weights_NSQ[heads]
            return chosen_NSQ.mean(dim=0, keepdim=True)
        probs_NQT = self.attention_map(row).detach()
        probs_NQT = probs_NQT if heads is None else probs_NQT[heads]
        return relative_probability(
            probs_NQT.index_select(-1, places_S).transpose(-1, -2), probs_NQT
        )

    def _softmax_is_left(self, row: int) -> bool:
        """Whether nobody needs the whole map, which is the softmax over the text alone."""
        inputs, plan = self.inputs, self.plan
        return not (
            self.site.kind != "cross"
            or row in plan.mixes
            or row in plan.functions
            or inputs.causal
            or torch.is_grad_enabled()
            or inputs.key.shape[1] != inputs.query.shape[1]
            or inputs.query.shape[1] * inputs.query.shape[2] * inputs.key.shape[2] > NUMBERS_AT_ONCE
        )

    def _weighed(self, row: int) -> tuple[Tensor, Tensor]:
        """Probabilities in proportion to the largest, (N, T, Q), and their sums (N, 1, Q).

        Positions come last, so that what is picked out and summed over tokens or heads lies in one
        piece.
        """
        if row not in self._weights:
            scores_NTQ = self._scores(row, *self.site.image).transpose(-1, -2)
            weights_NTQ = (scores_NTQ - scores_NTQ.amax(dim=1, keepdim=True)).exp_()
            self._weights[row] = weights_NTQ, weights_NTQ.sum(dim=1, keepdim=True)
        return self._weights[row]

    def attention_map(self, row: int) -> Tensor:
        """What the picture's positions of a row look at, (N, Q, T) over the text, or over all keys
        where there is no text; after all edits."""
        key = (row, torch.is_grad_enabled())
        if key not in self._known:
            columns = slice(None) if self.site.kind == "self" else slice(*self.site.text)
            chunks = [part[..., columns] for part in self.map_chunks(row, *self.site.image)]
            probs_NQT = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
            if self.site.kind == "self":
                return probs_NQT
            self._known[key] = probs_NQT
        return self._known[key]

    def map_chunks(self, row: int, first: int = 0, end: int | None = None) -> Iterator[Tensor]:
        """The row's map (N, Q, K), some queries at a time, after all edits."""
        heads, queries, keys = (*self.inputs.query.shape[1:3], self.inputs.key.shape[2])
        end = queries if end is None else end
        at_once = max(1, NUMBERS_AT_ONCE // (heads * keys))
        for start in range(first, end, at_once):
            yield self._edited(row, start, min(start + at_once, end))

    def _edited(self, row: int, first: int, end: int) -> Tensor:
        probs_NQK = self._scored(row, first, end)
        mix = self.plan.mixes.get(row)
        if mix is not None:
            begin, stop = self.site.text
            mixed_NQT = probs_NQK[..., begin:stop] * self.plan.device_tensors.to(
                mix.kept, probs_NQK
            ).unsqueeze(-2)
            if mix.columns is not None:
                source_NQT = self._scored(mix.source, first, end)[..., begin:stop]
                mixed_NQT = mixed_NQT + source_NQT @ self.plan.device_tensors.to(
                    mix.columns, source_NQT
                )
            probs_NQK = torch.cat(
                [probs_NQK[..., :begin], mixed_NQT, probs_NQK[..., stop:]], dim=-1
            )
        for function in self.plan.functions.get(row, ()):
            probs_NQK = validate_map(function(probs_NQK), probs_NQK)
        return probs_NQK

    def _scored(self, row: int | None, first: int, end: int) -> Tensor:
        assert row is not None
        return self._scores(row, first, end).softmax(dim=-1)

    def _scores(self, row: int, first: int, end: int) -> Tensor:
        """(N, Q, K), before the softmax; in memory (N, K, Q), as `_weighed` wants it."""
        inputs = self.inputs
        q_NQE, k_NKE = upcast(inputs.query[row, :, first:end]), upcast(inputs.key[row])
        if len(k_NKE) != len(q_NQE):  # several heads of queries share one of keys
            k_NKE = k_NKE.repeat_interleave(len(q_NQE) // len(k_NKE), dim=0)
        scale = 1 / math.sqrt(q_NQE.shape[-1]) if inputs.scale is None else inputs.scale
        # beta=0 leaves the first argument unread: this is the scaled product in one call
        unread = q_NQE.new_empty(1, 1, 1)
        scores_NKQ = torch.baddbmm(unread, k_NKE, q_NQE.transpose(-1, -2), beta=0, alpha=scale)
        scores_NQK = scores_NKQ.transpose(-1, -2)
        bias_NQK = self.plan.bias_at(row, like=scores_NQK)
        for added in (select_mask_row(inputs.mask, row), bias_NQK):
            if added is not None:
                part = added if added.shape[-2] == 1 else added[:, first:end]
                scores_NQK = scores_NQK + part.to(scores_NQK)
        if inputs.causal:
            queries, keys = inputs.query.shape[2], inputs.key.shape[2]
            seen = torch.ones(queries, keys, dtype=torch.bool, device=q_NQE.device).tril()
            scores_NQK = scores_NQK.masked_fill(~seen[first:end], -torch.inf)
        return scores_NQK


def select_mask_row(mask: Tensor | None, row: int) -> Tensor | None:
    """What is added to the scores of a row, (1 or N, 1 or Q, K)."""
    if mask is None:
        return None
    mask = to_four_axes(mask)
    own = mask[row if len(mask) > 1 else 0]
    if own.dtype == torch.bool:
        own = torch.zeros(own.shape, device=own.device).masked_fill(~own, -torch.inf)
    return own


def relative_probability(words_NSQ: Tensor, probs_NQT: Tensor) -> Tensor:
    """What tokens have in proportion to the one that is looked at most, a mean over heads.

    1 where a token is that one itself: how strongly a place or a head looks at the text at all
    makes no difference.
    """
    most_N1Q = probs_NQT.amax(dim=-1).clamp(min=LEAST)[:, None]
    return (words_NSQ / most_N1Q).mean(dim=0, keepdim=True)


def validate_map(made: object, probs_NQK: Tensor) -> Tensor:
    if not isinstance(made, Tensor) or made.shape != probs_NQK.shape:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ArgumentError(
            f"A function of the map gave {got}, expected probabilities of the shape it was given, "
            f"{tuple(probs_NQK.shape)}: heads, positions, keys."
        )
    if not torch.isfinite(made).all():
        raise ArgumentError("A function of the map gave numbers that are not finite.")
    return made.to(probs_NQK)
