"""One call of attention under edits, in the cheapest way.

An edit that is linear in the maps never makes one: P' V = P_source (A V) + P (B V), so mixed
values go through the fused kernel, once where one of the two terms is gone and twice elsewhere.

B batch rows, R some of them, N heads, Q query positions, K key positions, T text tokens, E width
of a head.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import Effects, wide
from t2i.attention.compute.probabilities import Attended, row_of_mask
from t2i.attention.compute.recorded_rows import RecordedRow
from t2i.attention.compute.tap import Call, of_four_axes
from t2i.attention.site import Site
from t2i.errors import AttentionError


def fused(
    call: Call, site: Site, effects: Effects, recorded_row: RecordedRow | None = None
) -> tuple[Tensor, Attended]:
    """The output (B, N, Q, E) under these effects, and what the maps have become."""
    whole = call if recorded_row is None else recorded_row.append_to(call)
    if not effects:
        return call.run(), Attended(whole, site, effects)
    mask = None if whole.mask is None else of_four_axes(whole.mask)
    call = shared(replace(whole, mask=mask), effects)
    attended = Attended(call, site, effects)
    if site.text != (0, site.keys):
        return beside_the_picture(call, site, effects, attended), attended

    # every row, its values mixed
    mixes = effects.mixes
    value = call.value.clone() if mixes else call.value
    for row, mix in mixes.items():
        value[row] = mix.of_source(value[row]) if mix.swaps else mix.of_own(value[row])
    scores = [
        mixes[row].source if row in mixes and mixes[row].swaps else row for row in range(len(value))
    ]
    out = scored_as(scores, call, value, effects)

    # what comes from the source, where a part of the row's own map stays
    twice = [row for row, mix in mixes.items() if mix.columns is not None and not mix.swaps]
    if twice:
        value = torch.stack([mixes[row].of_source(call.value[row]) for row in twice])
        second = scored_as([mixes[row].source for row in twice], call, value, effects)
        out = out.index_add(0, torch.tensor(twice, device=out.device), second)
    return explicit(out, attended), attended


def beside_the_picture(call: Call, site: Site, effects: Effects, attended: Attended) -> Tensor:
    """Where the text is a part of the keys only: what the picture's queries get, twice fused."""
    out = scored_as(range(len(call.value)), call, call.value, effects)
    asking, text = slice(*site.image), slice(*site.text)
    rows = [row for row in effects.mixes if row not in effects.functions]
    if rows:
        out = out.clone()
    for row in rows:
        mix = effects.mixes[row]
        own = call.value[row].clone()
        own[:, text] = mix.of_own(own[:, text])
        mixed = scored_as([row], call, own[None], effects, asking)
        if mix.columns is not None:
            source = torch.zeros_like(own)
            source[:, text] = mix.of_source(call.value[row][:, text])
            mixed = mixed + scored_as([mix.source], call, source[None], effects, asking)
        out[row, :, asking] = mixed[0]
    return explicit(out, attended)


def explicit(out: Tensor, attended: Attended) -> Tensor:
    """The output with the rows whose maps somebody computes."""
    functions = attended.effects.functions
    if functions:
        out = out.clone()
    for row in functions:
        value_NKE = wide(attended.call.value[row])
        parts = [probs_NQK @ value_NKE for probs_NQK in attended.parts(row)]
        out[row] = torch.cat(parts, dim=1).to(out)
    return out


def scored_as(
    rows: Sequence[int | None],
    call: Call,
    value: Tensor,
    effects: Effects,
    asking: slice = slice(None),
) -> Tensor:
    """One output (R, N, Q, E) for each of these values (R, N, K, E), with the scores of `rows`."""
    every = list(rows) == list(range(len(call.query)))
    index = torch.tensor(rows, device=value.device)
    query = call.query if every else call.query[index]
    key = call.key if every else call.key[index]
    mask = call.mask if every else mask_of(index, call.mask)
    chosen = replace(call, query=query[:, :, asking], key=key, value=value, mask=mask)
    if mask is not None and mask.shape[-2] > 1:
        chosen = replace(chosen, mask=mask[..., asking, :])
    biased = [number for number, row in enumerate(rows) if row in effects.bias]
    if not biased:
        return chosen.run()

    # NOTE a mask for some rows only: the others keep the kernel they had
    plain = [number for number in range(len(rows)) if number not in set(biased)]
    out = query.new_empty(*query[:, :, asking].shape[:3], value.shape[-1])
    if plain:
        out[plain] = of_rows(chosen, plain).run()
    for number in biased:
        one = of_rows(chosen, [number])
        before = row_of_mask(one.mask, 0)
        like = one.query if before is None else before.float()
        bias_NQK = effects.bias_at(rows[number], like)
        assert bias_NQK is not None
        if bias_NQK.shape[-2] > 1:
            bias_NQK = bias_NQK[:, asking]
        added = bias_NQK if before is None else like + bias_NQK
        shape = (1, added.shape[0], one.query.shape[2], one.key.shape[2])
        out[number] = one.run(mask=added[None].to(one.query).expand(shape))[0]
    return out


def of_rows(call: Call, rows: list[int]) -> Call:
    """The call of some rows alone."""
    return replace(
        call,
        query=call.query[rows],
        key=call.key[rows],
        value=call.value[rows],
        mask=mask_of(rows, call.mask),
    )


def mask_of(rows: list[int] | Tensor, mask: Tensor | None) -> Tensor | None:
    """Of (1 or B, 1 or N, 1 or Q, K)."""
    return mask if mask is None or len(mask) == 1 else mask[rows]


def shared(call: Call, effects: Effects) -> Call:
    """The call in which rows have taken over what belongs to others."""
    if not effects.shares:
        return call
    originals = {"q": call.query, "k": call.key, "v": call.value}
    written = {part for share in effects.shares for part in share.parts}
    tensors = {
        part: tensor.clone() if part in written else tensor for part, tensor in originals.items()
    }
    mask = before = call.mask
    if mask is not None and any("k" in share.parts for share in effects.shares):
        mask = mask.expand(len(call.query), *mask.shape[1:]).clone()
    for share in effects.shares:
        heads = slice(None) if share.heads is None else list(share.heads)
        for part in share.parts:
            tensors[part][share.row, heads] = originals[part][share.source, heads]
        if mask is not None and before is not None and "k" in share.parts and share.heads is None:
            mask[share.row] = before[share.source if len(before) > 1 else 0]
    return replace(call, query=tensors["q"], key=tensors["k"], value=tensors["v"], mask=mask)


def eager(call: Call, mask: Tensor | None, site: Site, effects: Effects) -> Attended:
    """The same for a processor that computes its scores: what it is to compute them of.

    The call carries no values; `mask` is (B, 1 or N, 1 or Q, K).
    """
    if any("v" in share.parts for share in effects.shares):
        raise AttentionError(
            f"{site.name} is computed by an older processor, which never shows its values, and an "
            "edit wants to share them: pipe.unet.set_default_attn_processor() puts the fused one "
            "in its place."
        )
    return Attended(shared(replace(call, mask=mask), effects), site, effects)


def eager_mask(attended: Attended) -> Tensor | None:
    """What is added to the scores, (B * N, 1 or Q, K), or None."""
    call, effects = attended.call, attended.effects
    if call.mask is None and not effects.bias:
        return None
    rows, heads, queries = call.query.shape[:3]
    shape = (heads, queries, call.key.shape[2])
    like = torch.zeros((), device=call.query.device)
    added = [
        sum(
            one.to(like).expand(shape)
            for one in (row_of_mask(call.mask, row), effects.bias_at(row, like))
            if one is not None
        )
        for row in range(rows)
    ]
    rows_BNQK = [
        one if isinstance(one, Tensor) else torch.zeros(shape, device=call.query.device)
        for one in added
    ]
    return torch.cat(rows_BNQK).to(call.query)
