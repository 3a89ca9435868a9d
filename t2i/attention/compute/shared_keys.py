"""Rows of a self-attention that attend to the keys and values of another row beside their own.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

from dataclasses import replace

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import EditPlan, SharedKeys, upcast_to_float32
from t2i.attention.compute.probabilities import select_mask_row
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.site import Site
from t2i.errors import AttentionError

EPSILON = 1e-5
"""Added to variances, as in the published code of StyleAligned."""
TENSOR_NAMES = {"q": "queries", "k": "keys", "v": "values"}


def build_extended_rows(
    inputs: AttentionInputs, site: Site, plan: EditPlan
) -> dict[int, AttentionInputs]:
    """Return the inputs of each row that shares the keys of another, by row: (1, N, ...), with the
    other row's keys and values behind its own, and the row's bias in the mask.

    inputs : with recorded rows, after the row copies of the plan
    Raises AttentionError at a site that is no self-attention, and for a recorded source of which
    queries, keys or values were not recorded.
    """
    if plan.shared_keys and site.kind != "self":
        raise AttentionError(
            f"An edit shares keys between rows at {site.name}, which is {site.kind}-attention: "
            'only self-attention has keys of the image alone. Give the edit kinds = ("self",).'
        )
    return {
        row: build_extended_row(inputs, row, shared, site, plan)
        for row, shared in plan.shared_keys.items()
    }


def build_extended_row(
    inputs: AttentionInputs, row: int, shared: SharedKeys, site: Site, plan: EditPlan
) -> AttentionInputs:
    """Return the inputs of one row, (1, N, ...), with the shared keys and values behind its own."""
    source = shared.source
    read = [("q", inputs.query)] if shared.normalise else []
    for part, tensor in (*read, ("k", inputs.key), ("v", inputs.value)):
        check_row_recorded(tensor, source, part, site)
    query_NQE, key_NKE = inputs.query[row], inputs.key[row]
    if shared.normalise:
        heads = slice(None) if shared.heads is None else list(shared.heads)
        query_NQE, key_NKE = query_NQE.clone(), key_NKE.clone()
        query_NQE[heads] = match_statistics(query_NQE[heads], inputs.query[source][heads])
        key_NKE[heads] = match_statistics(key_NKE[heads], inputs.key[source][heads])
    mask_NQK = build_extended_mask(inputs, row, shared, plan)
    return replace(
        inputs,
        query=query_NQE[None],
        key=torch.cat([key_NKE, inputs.key[source]], dim=-2)[None],
        value=torch.cat([inputs.value[row], inputs.value[source]], dim=-2)[None],
        mask=None if mask_NQK is None else mask_NQK[None].to(inputs.query),
    )


def match_statistics(content_NQE: Tensor, style_NQE: Tensor) -> Tensor:
    """Return the content with the mean and the standard deviation over positions that the style has
    in each head and channel.

    Adaptive instance normalisation (Huang and Belongie 2017, Eq. 8, arXiv 1703.06868), computed in
    float32 or wider. The variance is that of the population, so that one position has one, too.
    """
    content, style = upcast_to_float32(content_NQE), upcast_to_float32(style_NQE)
    mean, style_mean = (one.mean(dim=-2, keepdim=True) for one in (content, style))
    deviation, style_deviation = (
        (one.var(dim=-2, keepdim=True, correction=0) + EPSILON).sqrt() for one in (content, style)
    )
    return ((content - mean) / deviation * style_deviation + style_mean).to(content_NQE)


def build_extended_mask(
    inputs: AttentionInputs, row: int, shared: SharedKeys, plan: EditPlan
) -> Tensor | None:
    """Return what is added to the scores of a row's own keys and of those that it shares,
    (1 or N, 1 or Q, 2 K) float32; None for nothing.
    """
    heads, keys = inputs.query.shape[1], inputs.key.shape[-2]
    zero = torch.zeros((), device=inputs.query.device)
    own = [
        one.to(zero)
        for one in (select_mask_row(inputs.mask, row), plan.bias_for_row(row, zero))
        if one is not None
    ]
    of_source = select_mask_row(inputs.mask, shared.source)
    if not own and of_source is None and not shared.score_offset and shared.heads is None:
        return None
    more_N11 = zero.new_full((heads, 1, 1), shared.score_offset)
    if shared.heads is not None:
        others = [head for head in range(heads) if head not in shared.heads]
        more_N11[others] = -torch.inf
    own_NQK = sum(own, zero.new_zeros(heads, 1, keys))
    more_NQK = more_N11.expand(heads, 1, keys)
    if of_source is not None:
        more_NQK = more_NQK + of_source.to(zero)
    queries = max(own_NQK.shape[-2], more_NQK.shape[-2])
    parts = [one.expand(heads, queries, keys) for one in (own_NQK, more_NQK)]
    return torch.cat(parts, dim=-1)


def check_row_recorded(tensor: Tensor, row: int, part: str, site: Site) -> None:
    """Raise AttentionError unless a source's row is among those of an attention input: of a
    recorded source it may not have been recorded.

    part : first letter of query, key or value
    """
    if row >= len(tensor):
        raise AttentionError(
            f"An edit copies {TENSOR_NAMES[part]} of the recorded source at {site.name}, "
            "which were not recorded there at this step: record the source with "
            "for_edits=[...] of that edit."
        )
