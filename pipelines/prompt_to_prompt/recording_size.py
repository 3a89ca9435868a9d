"""Size of a recorded source, computed before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.site import Site, find_place_in_unet
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.guidance_registry import GUIDANCES
from t2i.conditioning.run_state import Guidance, RunState
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from t2i.text.encoder_interface import TextEncoder

GIBIBYTE = 1 << 30


def estimate_recording_bytes(
    pipe: Any,
    num_steps: int,
    height: int,
    width: int,
    max_positions: int,
    source_rows_edits: Sequence[SourceRowsEdit] = (),
    branches_at_steps: Sequence[int] | None = None,
) -> int:
    """Return the bytes of a recorded source: of each step the queries and keys, and the latents.

    It is exact for a prompt that fits into one window of the text encoder, but for the residuals
    and the unconditional embeddings that some inversion methods record beside them.

    max_positions : of the largest site whose self-attention is recorded; 0 for the sites that
        `source_rows_edits` read alone
    source_rows_edits : edits for which more is recorded
    branches_at_steps : of guidance, of which these edits read each; None for one at each step
    """
    unet, latent = pipe.unet, sd.latent_size(pipe.vae, height, width)
    values, of_copies = unet.config["in_channels"] * math.prod(latent), 0
    tokens = find_text_window_size(pipe)
    for name, module in unet.named_modules():
        if not isinstance(module, Attention):
            continue
        halvings = count_downsamplings_at_site(unet, name)
        sides = [math.ceil(side / 2**halvings) for side in latent]
        positions = math.prod(sides)
        if module.is_cross_attention:
            if max_positions == 0:
                continue
            values += positions * module.inner_dim + tokens * module.inner_kv_dim
            continue
        recorded = "qk" if positions <= max_positions else ""
        widths = {"q": module.inner_dim, "k": module.inner_kv_dim, "v": module.inner_kv_dim}
        values += positions * sum(widths[one] for one in recorded)
        site = build_self_attention_site(name, (sides[0], sides[1]), module.heads)
        for step in range(num_steps if source_rows_edits else 0):
            read = [
                edit.tensors
                for edit in source_rows_edits
                if edit.acts_at_site_and_step(site, step, num_steps)
            ]
            tensors = set("".join(read))
            more = sum(widths[one] for one in tensors - set(recorded))
            others = 0 if branches_at_steps is None else branches_at_steps[step] - 1
            of_copies += positions * (more + others * sum(widths[one] for one in tensors))
    size: int = (num_steps * values + of_copies) * unet.dtype.itemsize
    return size


def count_branches_at_steps(guidance: Guidance, num_steps: int) -> list[int]:
    """Return how many branches a guidance computes at each step; for a guidance that is not in the
    registry, one: the least.
    """
    known = set(GUIDANCES.values())
    parts = [guidance, *([guidance.guidance] if isinstance(guidance, Interval) else [])]
    if not all(type(one) in known for one in parts):
        return [1] * num_steps
    none: Any = None  # those of the registry read the number of the step alone
    run = RunState(none, none, guidance, torch.zeros(num_steps))
    return [len(guidance.branches(replace(run, step=step))) for step in range(num_steps)]


def build_self_attention_site(name: str, size: tuple[int, int], heads: int) -> Site:
    """Return the site of a UNet's self-attention module, by its name and size."""
    positions = math.prod(size)
    return Site(
        name, "self", find_place_in_unet(name), size, heads, positions, (0, 0), (0, positions)
    )


def find_text_window_size(pipe: Any) -> int:
    """Return the number of tokens of one window of a pipeline's text encoder."""
    encoder = find_prompt_tokenizers(pipe, None)[0].tokenizer
    assert isinstance(encoder, TextEncoder)
    return encoder.window_size


def count_downsamplings_at_site(unet: Any, site: str) -> int:
    """Return how often a UNet has halved the sides of the latents at an attention site, judged by
    the site's name.
    """
    down = [block.downsamplers is not None for block in unet.down_blocks]
    up = [getattr(block, "upsamplers", None) is not None for block in unet.up_blocks]
    place, _, rest = site.partition(".")
    block = int(rest.partition(".")[0]) if place in ("down_blocks", "up_blocks") else 0
    if place == "down_blocks":
        return sum(down[:block])
    return sum(down) - (sum(up[:block]) if place == "up_blocks" else 0)


def check_recording_budget(needed: int, budget: int) -> None:
    """Raise ArgumentError for a recording of more bytes than its budget."""
    if needed > budget:
        raise ArgumentError(
            f"Recording this source takes {needed / GIBIBYTE:.3g} GiB, but the budget is "
            f"{budget / GIBIBYTE:.3g} GiB: raise it (budget= in bytes, --budget in GiB), or take "
            "fewer steps, a smaller image, or fewer sites and steps in for_edits=."
        )
