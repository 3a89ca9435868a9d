"""Attention probabilities of one call, computed beside the kernel in float32 or wider.

N heads, Q query positions, K key positions, T text tokens, S some of them, E width of a head.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import EditPlan, upcast_to_float32
from t2i.attention.compute.tap import AttentionInputs, add_leading_mask_axes
from t2i.attention.site import Site
from t2i.errors import ArgumentError

MAX_CHUNK_ELEMENTS = 1 << 24
"""Largest part of an attention map computed at once: 64 MiB in float32."""
MIN_PROBABILITY_DIVISOR = 1e-12
"""Smallest divisor of a relative probability."""


@dataclass(frozen=True, slots=True)
class AttentionProbabilities:
    """Attention probabilities of one call, after edits; computed when a probe reads a batch row.

    inputs : inputs of the call, after the row copies of the plan
    plan : its other changes, which are applied here
    extended_rows : row -> inputs of that row alone, (1, N, ...), with the keys and values of
        another row behind its own; their mask has the row's bias
    output : output (B, N, Q, E) of the call after all edits; None where it is not known yet
    """

    inputs: AttentionInputs
    site: Site
    plan: EditPlan
    extended_rows: Mapping[int, AttentionInputs] = field(default_factory=dict)
    output: Tensor | None = None
    _maps: dict[tuple[int, bool], Tensor] = field(default_factory=dict, repr=False, compare=False)
    """(row, with gradients) -> map over the text, for the next probe that reads it."""
    _weights: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def compute_token_probabilities(self, row: int, positions_S: Tensor) -> Tensor:
        """Return the attention probabilities of some text tokens in a batch row, (heads, tokens,
        image positions), after all edits.
        """
        if self._needs_softmax_only(row):
            weights_NTQ, total_N1Q = self._relative_weights(row)
            return weights_NTQ.index_select(1, positions_S) / total_N1Q
        return (
            self.compute_map_of_image_queries(row).index_select(-1, positions_S).transpose(-1, -2)
        )

    def compute_mean_ratio_to_max_token(
        self, row: int, positions_S: Tensor, heads: list[int] | None
    ) -> Tensor:
        """Return some text tokens' attention probabilities, each divided by the largest probability
        of any token at the same image position: a mean over heads, (1, tokens, image positions).

        heads : heads of the mean; None for all
        """
        if self._needs_softmax_only(row):
            weights_NSQ = self._relative_weights(row)[0].index_select(1, positions_S)
            chosen_NSQ = weights_NSQ if heads is None else weights_NSQ[heads]
            return chosen_NSQ.mean(dim=0, keepdim=True)
        probs_NQT = self.compute_map_of_image_queries(row).detach()
        probs_NQT = probs_NQT if heads is None else probs_NQT[heads]
        return compute_mean_ratio_to_max_token(
            probs_NQT.index_select(-1, positions_S).transpose(-1, -2), probs_NQT
        )

    def _needs_softmax_only(self, row: int) -> bool:
        """Return True if probabilities are the softmax over the text alone, without a whole map."""
        inputs, plan = self.inputs, self.plan
        return not (
            self.site.kind != "cross"
            or row in plan.mixes
            or row in plan.functions
            or inputs.causal
            or torch.is_grad_enabled()
            or inputs.key.shape[1] != inputs.query.shape[1]
            or inputs.query.shape[1] * inputs.query.shape[2] * inputs.key.shape[2]
            > MAX_CHUNK_ELEMENTS
        )

    def _relative_weights(self, row: int) -> tuple[Tensor, Tensor]:
        """Return probabilities divided by the largest, (N, T, Q), and their sums, (N, 1, Q).

        Positions are the last axis, so that sums over tokens or heads read contiguous memory.
        """
        if row not in self._weights:
            scores_NTQ = self.compute_scores(row, *self.site.image).transpose(-1, -2)
            weights_NTQ = (scores_NTQ - scores_NTQ.amax(dim=1, keepdim=True)).exp_()
            self._weights[row] = weights_NTQ, weights_NTQ.sum(dim=1, keepdim=True)
        return self._weights[row]

    def compute_map_of_image_queries(self, row: int) -> Tensor:
        """Return the attention map (N, Q, T) of a batch row's image positions over the text tokens,
        after all edits.
        """
        key = (row, torch.is_grad_enabled())
        if key not in self._maps:
            text = slice(*self.site.text)
            chunks = [part[..., text] for part in self.iterate_map_chunks(row, *self.site.image)]
            self._maps[key] = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
        return self._maps[key]

    def compute_map_over_image_keys(self, row: int) -> Tensor:
        """Return the attention map (N, Q, Q) of a batch row's image positions over one another,
        after all edits, at a self- or joint-attention site whose queries are its keys.
        """
        image = slice(*self.site.image)
        chunks = [part[..., image] for part in self.iterate_map_chunks(row, *self.site.image)]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)

    def iterate_map_chunks(
        self, row: int, first: int = 0, end: int | None = None
    ) -> Iterator[Tensor]:
        """Yield the attention map (N, Q, K) of a batch row after all edits, in chunks of query
        positions; keys of another row that it attends to follow its own.
        """
        inputs, _ = self._inputs_with_row(row)
        heads, queries, keys = (*inputs.query.shape[1:3], inputs.key.shape[2])
        end = queries if end is None else end
        num_queries = max(1, MAX_CHUNK_ELEMENTS // (heads * keys))
        for start in range(first, end, num_queries):
            yield self._edited_map(row, start, min(start + num_queries, end))

    def _edited_map(self, row: int, first: int, end: int) -> Tensor:
        probs_NQK = self._softmax(row, first, end)
        mix = self.plan.mixes.get(row)
        if mix is not None:
            begin, stop = self.site.text
            mixed_NQT = probs_NQK[..., begin:stop] * self.plan.device_tensors.to(
                mix.kept, probs_NQK
            ).unsqueeze(-2)
            if mix.columns is not None:
                source_NQT = self._softmax(mix.source, first, end)[..., begin:stop]
                mixed_NQT = mixed_NQT + source_NQT @ self.plan.device_tensors.to(
                    mix.columns, source_NQT
                )
            probs_NQK = torch.cat(
                [probs_NQK[..., :begin], mixed_NQT, probs_NQK[..., stop:]], dim=-1
            )
        for function in self.plan.functions.get(row, ()):
            probs_NQK = check_and_cast_user_map(function(probs_NQK), probs_NQK)
        return probs_NQK

    def _softmax(self, row: int | None, first: int, end: int) -> Tensor:
        assert row is not None
        return self.compute_scores(row, first, end).softmax(dim=-1)

    def select_values(self, row: int) -> Tensor:
        """Return the values (N, K, E) that the attention map of a row weights."""
        inputs, number = self._inputs_with_row(row)
        return inputs.value[number]

    def _inputs_with_row(self, row: int) -> tuple[AttentionInputs, int]:
        """Return inputs that contain a row as it attends, and its number among theirs."""
        extended = self.extended_rows.get(row)
        return (self.inputs, row) if extended is None else (extended, 0)

    @property
    def scale(self) -> float:
        """Factor by which the products of queries and keys are multiplied before the softmax."""
        inputs = self.inputs
        return 1 / math.sqrt(inputs.query.shape[-1]) if inputs.scale is None else inputs.scale

    def compute_scores(self, row: int, first: int, end: int) -> Tensor:
        """Return the attention scores (N, Q, K) of a batch row before the softmax, for the query
        positions from `first` to `end`.
        """
        inputs, number = self._inputs_with_row(row)
        q_NQE, k_NKE = (
            upcast_to_float32(inputs.query[number, :, first:end]),
            upcast_to_float32(inputs.key[number]),
        )
        if len(k_NKE) != len(q_NQE):  # several heads of queries share one of keys
            k_NKE = k_NKE.repeat_interleave(len(q_NQE) // len(k_NKE), dim=0)
        # beta=0 leaves the first argument unread: this is the scaled product in one call
        unread = q_NQE.new_empty(1, 1, 1)
        scores_NKQ = torch.baddbmm(unread, k_NKE, q_NQE.transpose(-1, -2), beta=0, alpha=self.scale)
        scores_NQK = scores_NKQ.transpose(-1, -2)
        bias_NQK = None
        if row not in self.extended_rows:
            bias_NQK = self.plan.bias_for_row(row, like=scores_NQK)
        for bias in (select_mask_row(inputs.mask, number), bias_NQK):
            if bias is not None:
                part = bias if bias.shape[-2] == 1 else bias[:, first:end]
                scores_NQK = scores_NQK + part.to(scores_NQK)
        if inputs.causal:
            queries, keys = inputs.query.shape[2], inputs.key.shape[2]
            visible = torch.ones(queries, keys, dtype=torch.bool, device=q_NQE.device).tril()
            scores_NQK = scores_NQK.masked_fill(~visible[first:end], -torch.inf)
        return scores_NQK


def select_mask_row(mask: Tensor | None, row: int) -> Tensor | None:
    """Return the additive mask of one batch row, (1 or N, 1 or Q, K), or None for none."""
    if mask is None:
        return None
    mask = add_leading_mask_axes(mask)
    own = mask[row if len(mask) > 1 else 0]
    if own.dtype == torch.bool:
        own = torch.zeros(own.shape, device=own.device).masked_fill(~own, -torch.inf)
    return own


def compute_mean_ratio_to_max_token(words_NSQ: Tensor, probs_NQT: Tensor) -> Tensor:
    """Return the attention probabilities of some tokens, each divided by the largest probability of
    any token at the same image position, as a mean over heads.

    It is 1 where the token itself has the largest probability, however strongly the position or
    the head attends to the text as a whole.

    words_NSQ, probs_NQT : probabilities of some tokens, and of all
    """
    most_N1Q = probs_NQT.amax(dim=-1).clamp(min=MIN_PROBABILITY_DIVISOR)[:, None]
    return (words_NSQ / most_N1Q).mean(dim=0, keepdim=True)


def check_and_cast_user_map(result: object, probs_NQK: Tensor) -> Tensor:
    """Return the result of a user's function of an attention map, in the dtype of the map. Raises
    ArgumentError unless it is finite and has the map's shape.
    """
    if not isinstance(result, Tensor) or result.shape != probs_NQK.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ArgumentError(
            f"A function of the map returned {got}, expected probabilities of the shape of its "
            f"argument, {tuple(probs_NQK.shape)}: heads, positions, keys."
        )
    if not torch.isfinite(result).all():
        raise ArgumentError("A function of the map returned numbers that are not finite.")
    return result.to(probs_NQK)
