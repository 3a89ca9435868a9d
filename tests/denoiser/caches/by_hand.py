"""A UNet's forward pass by hand: its blocks one after the other, from any depth on.

Nothing of t2i is used here, and of diffusers only the layers: not the forward of its blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Pass = dict[str, Any]


@dataclass
class Recorded:
    """Every call of a UNet: what it was given and what it returned, and which modules ran in it."""

    passes: list[Pass] = field(default_factory=list)


@contextmanager
def recording(unet) -> Iterator[Recorded]:
    found = Recorded()

    def begin(_module, args, kwargs):
        # Features of adapters are taken from the list that they come in.
        copied = {k: list(v) if isinstance(v, list) else v for k, v in kwargs.items()}
        found.passes.append({"args": args, "kwargs": copied, "ran": []})

    def end(_module, _args, output):
        found.passes[-1]["output"] = output[0]

    with remover() as hooks:
        hooks.append(unet.register_forward_pre_hook(begin, with_kwargs=True))
        hooks.append(unet.register_forward_hook(end))
        for name, module in unet.named_modules():
            if not list(module.children()):

                def ran(*_, name=name):
                    found.passes[-1]["ran"].append(name)

                hooks.append(module.register_forward_hook(ran))
        yield found


@contextmanager
def remover() -> Iterator[list[Any]]:
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def layers_of(block):
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def forward(unet, given: Pass, branch: int | None = None, kept: Tensor | None = None):
    """Return the prediction and, by number of a skip connection, what enters the layer reading it.

    With a branch only the skip connections up to that one are computed, and `kept` enters.
    """
    kwargs = given["kwargs"]
    added = kwargs["added_cond_kwargs"] or {}
    options = {
        "encoder_hidden_states": unet.process_encoder_hidden_states(
            kwargs["encoder_hidden_states"], added
        ),
        "cross_attention_kwargs": kwargs["cross_attention_kwargs"],
        "return_dict": False,
    }
    emb = embed_time(unet, *given["args"], added)

    def layer(hidden, resnet, attention):
        hidden = resnet(hidden, emb)
        return hidden if attention is None else attention(hidden, **options)[0]

    end = 10**6 if branch is None else branch + 1
    within = kwargs["down_intrablock_additional_residuals"] or []
    skips = go_down(unet, unet.conv_in(given["args"][0]), layer, list(within), end)
    hidden = skips[-1]
    if (residuals := kwargs["down_block_additional_residuals"]) is not None:
        skips = [skip + residual for skip, residual in zip(skips, residuals, strict=False)]
    if branch is None:
        hidden = unet.mid_block.resnets[0](hidden, emb)
        for attention, resnet in zip(
            unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True
        ):
            hidden = resnet(attention(hidden, **options)[0], emb)
        if kwargs["mid_block_additional_residual"] is not None:
            hidden = hidden + kwargs["mid_block_additional_residual"]
    else:
        hidden = kept
    hidden, entering = go_up(unet, hidden, layer, skips, end)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))), entering


def embed_time(unet, latents, timestep, added):
    times = torch.as_tensor(timestep).expand(len(latents))
    emb = unet.time_embedding(unet.time_proj(times).to(latents.dtype))
    if "time_ids" not in added:
        return emb
    ids = unet.add_time_proj(added["time_ids"].flatten()).reshape(len(latents), -1)
    pooled = torch.cat([added["text_embeds"], ids], dim=-1)
    return emb + unet.add_embedding(pooled.to(emb.dtype))


def go_down(unet, hidden, layer, within, end):
    """Return the skip connections before number `end`; `within` are an adapter's features."""
    skips = [hidden]
    for block in unet.down_blocks:
        feature = within.pop(0) if within else 0.0
        crossed = hasattr(block, "attentions")
        for number, (resnet, attention) in enumerate(layers_of(block)):
            if len(skips) < end:
                hidden = layer(hidden, resnet, attention)
                if crossed and number == len(block.resnets) - 1:
                    hidden = hidden + feature
                skips.append(hidden)
        for downsampler in block.downsamplers or []:
            if len(skips) < end:
                hidden = downsampler(hidden)
                skips.append(hidden)
        if not crossed and len(skips) < end:
            skips[-1] = hidden = hidden + feature  # diffusers adds it in place
    return skips


def go_up(unet, hidden, layer, skips, end):
    """Return the last feature, and what enters each layer that reads a connection before `end`."""
    entering = {}
    number = sum(len(block.resnets) for block in unet.up_blocks)
    for block in unet.up_blocks:
        for resnet, attention in layers_of(block):
            number -= 1
            if number < end:
                entering[number] = hidden
                hidden = layer(torch.cat([hidden, skips[number]], dim=1), resnet, attention)
        for upsampler in block.upsamplers or []:
            if number < end:
                hidden = upsampler(hidden, tuple(skips[number - 1].shape[-2:]))
    return hidden, entering


def largest_difference(unet, found: Recorded, branch: int, full) -> float:
    """Of all predictions of a run with the deep blocks of the passes `full` alone."""
    worst, kept = 0.0, None
    with torch.no_grad():
        for number, given in enumerate(found.passes):
            rows = len(given["args"][0])
            if number in full:
                expected, entering = forward(unet, given)
                kept = entering[branch]
            else:
                # Rows of fewer branches are the last: those of "cond".
                expected, _ = forward(unet, given, branch, kept[-rows:])
            difference = (expected - given["output"]).abs().max() / expected.abs().max()
            worst = max(worst, float(difference))
    return worst
