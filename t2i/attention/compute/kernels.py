"""Attention kernels under edits, computed with as little extra work as the edits allow.

An edit that is linear in the attention map needs no map: P' V = P_source (A V) + P (B V), so mixed
values go through the fused kernel, once where one of the two terms is gone and twice elsewhere.

B batch rows, R some of them, N heads, Q query positions, K key positions, T text tokens, E width
of a head.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import EditPlan, upcast_to_float32
from t2i.attention.compute.probabilities import AttentionProbabilities, select_mask_row
from t2i.attention.compute.recorded_rows import RecordedAttentionInputs
from t2i.attention.compute.shared_keys import build_extended_rows, check_row_recorded
from t2i.attention.compute.tap import AttentionInputs, add_leading_mask_axes
from t2i.attention.site import Site
from t2i.errors import AttentionError


def compute_edited_output_and_probabilities(
    inputs: AttentionInputs,
    site: Site,
    plan: EditPlan,
    recorded_rows: RecordedAttentionInputs | None = None,
) -> tuple[Tensor, AttentionProbabilities]:
    """Compute an attention call under an edit plan: return its output (B, N, Q, E), and its
    probabilities for probes to read.

    recorded_rows : rows of a recorded source, appended behind the batch
    """
    whole = inputs if recorded_rows is None else recorded_rows.build_extended_inputs(inputs)
    if not plan:
        return inputs.run_kernel(), AttentionProbabilities(whole, site, plan)
    mask = None if whole.mask is None else add_leading_mask_axes(whole.mask)
    whole = build_inputs_with_row_copies(replace(whole, mask=mask), site, plan)
    extended_rows = build_extended_rows(whole, site, plan)
    inputs = replace(whole, value=whole.value[: len(inputs.value)])
    probabilities = AttentionProbabilities(inputs, site, plan, extended_rows)
    if site.text != (0, site.keys):
        return compute_edited_joint_output(inputs, site, plan, probabilities), probabilities

    # all rows, with mixed values
    mixes = plan.mixes
    value = inputs.value.clone() if mixes else inputs.value
    for row, mix in mixes.items():
        value[row] = (
            mix.compute_values_for_source_map(value[row])
            if mix.discards_own_map
            else mix.scale_values_for_own_map(value[row])
        )
    scores = [
        mixes[row].source if row in mixes and mixes[row].discards_own_map else row
        for row in range(len(value))
    ]
    out = compute_output_rows(scores, inputs, value, plan)

    # the term of the source, where a part of the row's own map is kept
    partial_rows = [
        row for row, mix in mixes.items() if mix.columns is not None and not mix.discards_own_map
    ]
    if partial_rows:
        value = torch.stack(
            [mixes[row].compute_values_for_source_map(inputs.value[row]) for row in partial_rows]
        )
        second = compute_output_rows(
            [mixes[row].source for row in partial_rows], inputs, value, plan
        )
        out = out.index_add(0, torch.tensor(partial_rows, device=out.device), second)
    return recompute_output_with_map_functions(out, probabilities), probabilities


def compute_edited_joint_output(
    inputs: AttentionInputs, site: Site, plan: EditPlan, probabilities: AttentionProbabilities
) -> Tensor:
    """Compute an attention call under an edit plan at a site whose keys are not the text alone
    (joint attention, self-attention): return its output (B, N, Q, E).

    Mixes change the outputs of the image queries only; the fused kernel runs twice for those rows.
    """
    out = compute_output_by_own_maps(probabilities)
    queries, text = slice(*site.image), slice(*site.text)
    rows = [row for row in plan.mixes if row not in plan.functions]
    if rows:
        out = out.clone()
    for row in rows:
        mix = plan.mixes[row]
        own = inputs.value[row].clone()
        own[:, text] = mix.scale_values_for_own_map(own[:, text])
        mixed = compute_output_rows([row], inputs, own[None], plan, queries)
        if mix.columns is not None:
            source = torch.zeros_like(own)
            source[:, text] = mix.compute_values_for_source_map(inputs.value[row][:, text])
            mixed = mixed + compute_output_rows([mix.source], inputs, source[None], plan, queries)
        out[row, :, queries] = mixed[0]
    return recompute_output_with_map_functions(out, probabilities)


def compute_output_by_own_maps(probabilities: AttentionProbabilities) -> Tensor:
    """Return the output (B, N, Q, E) of all rows of an attention call, each weighted by its own
    map, which has further keys in a row that shares those of another.
    """
    inputs, plan, extended_rows = (
        probabilities.inputs,
        probabilities.plan,
        probabilities.extended_rows,
    )
    rows = range(len(inputs.value))
    if not extended_rows:
        return compute_output_rows(rows, inputs, inputs.value, plan)
    plain = [row for row in rows if row not in extended_rows]
    out = inputs.query.new_empty(
        len(inputs.value), *inputs.query.shape[1:3], inputs.value.shape[-1]
    )
    if plain:
        out[plain] = compute_output_rows(plain, inputs, inputs.value[plain], plan)
    for row, extended in extended_rows.items():
        out[row] = extended.run_kernel()[0]
    return out


def recompute_output_with_map_functions(
    out: Tensor, probabilities: AttentionProbabilities
) -> Tensor:
    """Return the attention output with those rows recomputed whose attention map is replaced by a
    function: out = fn(map) @ value.
    """
    functions = probabilities.plan.functions
    if functions:
        out = out.clone()
    for row in functions:
        value_NKE = upcast_to_float32(probabilities.select_values(row))
        chunks = [probs_NQK @ value_NKE for probs_NQK in probabilities.iterate_map_chunks(row)]
        out[row] = torch.cat(chunks, dim=1).to(out)
    return out


def compute_output_rows(
    rows: Sequence[int | None],
    inputs: AttentionInputs,
    value: Tensor,
    plan: EditPlan,
    queries: slice = slice(None),
) -> Tensor:
    """Return the attention outputs (R, N, Q, E) of some batch rows under an edit plan: given values
    (R, N, K, E), weighted by the attention maps of `rows`.

    queries : the query positions to compute
    """
    every = list(rows) == list(range(len(inputs.query)))
    index = torch.tensor(rows, device=value.device)
    query = inputs.query if every else inputs.query[index]
    key = inputs.key if every else inputs.key[index]
    mask = inputs.mask if every else select_mask_rows(index, inputs.mask)
    chosen = replace(inputs, query=query[:, :, queries], key=key, value=value, mask=mask)
    if mask is not None and mask.shape[-2] > 1:
        chosen = replace(chosen, mask=mask[..., queries, :])
    biased = [number for number, row in enumerate(rows) if row in plan.biases]
    if not biased:
        return chosen.run_kernel()

    # NOTE only rows with a bias get a mask: the others keep the kernel that they had
    plain = [number for number in range(len(rows)) if number not in set(biased)]
    out = query.new_empty(*query[:, :, queries].shape[:3], value.shape[-1])
    if plain:
        out[plain] = select_input_rows(chosen, plain).run_kernel()
    for number in biased:
        one = select_input_rows(chosen, [number])
        before = select_mask_row(one.mask, 0)
        like = one.query if before is None else before.float()
        bias_NQK = plan.bias_for_row(rows[number], like)
        assert bias_NQK is not None
        if bias_NQK.shape[-2] > 1:
            bias_NQK = bias_NQK[:, queries]
        added = bias_NQK if before is None else like + bias_NQK
        shape = (1, added.shape[0], one.query.shape[2], one.key.shape[2])
        out[number] = one.run_kernel(mask=added[None].to(one.query).expand(shape))[0]
    return out


def select_input_rows(inputs: AttentionInputs, rows: list[int]) -> AttentionInputs:
    """Return the arguments of an attention call (query, key, value, mask) for some batch rows
    alone.
    """
    return replace(
        inputs,
        query=inputs.query[rows],
        key=inputs.key[rows],
        value=inputs.value[rows],
        mask=select_mask_rows(rows, inputs.mask),
    )


def select_mask_rows(rows: list[int] | Tensor, mask: Tensor | None) -> Tensor | None:
    """Return an attention mask (1 or B, 1 or N, 1 or Q, K) for some batch rows alone; one that all
    rows share stays as it is.
    """
    return mask if mask is None or len(mask) == 1 else mask[rows]


def build_inputs_with_row_copies(
    inputs: AttentionInputs, site: Site, plan: EditPlan
) -> AttentionInputs:
    """Return the attention inputs with queries, keys and values copied between batch rows as the
    plan says; with the keys of a row its mask is copied, too.

    Raises AttentionError for a copy from a recorded source of what was not recorded of it.
    """
    if not plan.row_copies:
        return inputs
    originals = {"q": inputs.query, "k": inputs.key, "v": inputs.value}
    changed = {part for copy in plan.row_copies for part in copy.tensors}
    tensors = {
        part: tensor.clone() if part in changed else tensor for part, tensor in originals.items()
    }
    mask = before = inputs.mask
    if mask is not None and any("k" in copy.tensors for copy in plan.row_copies):
        mask = mask.expand(len(inputs.query), *mask.shape[1:]).clone()
    for copy in plan.row_copies:
        heads = slice(None) if copy.heads is None else list(copy.heads)
        for part in copy.tensors:
            check_row_recorded(originals[part], copy.source, part, site)
            tensors[part][copy.row, heads] = originals[part][copy.source, heads]
        if mask is not None and before is not None and "k" in copy.tensors and copy.heads is None:
            mask[copy.row] = before[copy.source if len(before) > 1 else 0]
    return replace(inputs, query=tensors["q"], key=tensors["k"], value=tensors["v"], mask=mask)


def build_edited_eager_probabilities(
    inputs: AttentionInputs, mask: Tensor | None, site: Site, plan: EditPlan
) -> AttentionProbabilities:
    """Prepare the edited attention probabilities of an eager (not fused) attention processor, which
    asks for probabilities and multiplies the values itself.

    mask : (B, 1 or N, 1 or Q, K)
    Raises AttentionError for a plan that copies or shares values.
    """
    if plan.shared_keys or any("v" in copy.tensors for copy in plan.row_copies):
        raise AttentionError(
            f"{site.name} is computed by an older (eager) processor, whose values cannot be "
            "edited, and an edit shares values between rows: "
            "pipe.unet.set_attn_processor(AttnProcessor2_0()) of diffusers puts the fused one in "
            "its place."
        )
    copied = build_inputs_with_row_copies(replace(inputs, mask=mask), site, plan)
    return AttentionProbabilities(copied, site, plan)


def build_eager_mask(probabilities: AttentionProbabilities) -> Tensor | None:
    """Return attention mask and biases of the edit plan as one tensor (B * N, Q, K) to add to the
    scores, or None if there is neither.
    """
    inputs, plan = probabilities.inputs, probabilities.plan
    if inputs.mask is None and not plan.biases:
        return None
    rows, heads, queries = inputs.query.shape[:3]
    shape = (heads, queries, inputs.key.shape[2])
    like = torch.zeros((), device=inputs.query.device)
    added = [
        sum(
            one.to(like).expand(shape)
            for one in (select_mask_row(inputs.mask, row), plan.bias_for_row(row, like))
            if one is not None
        )
        for row in range(rows)
    ]
    rows_BNQK = [
        one if isinstance(one, Tensor) else torch.zeros(shape, device=inputs.query.device)
        for one in added
    ]
    return torch.cat(rows_BNQK).to(inputs.query)
