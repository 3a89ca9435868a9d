"""Models of diffusers written as the original Stable Diffusion code names its tensors."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def write_sd1(path: Path, parts: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    text = under("cond_stage_model.transformer.text_model.", named(parts["text_encoder"]))
    return write(path, unet(parts["unet"]) | vae(parts["vae"]) | text, metadata)


def write_sd2(path: Path, parts: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    text = open_clip("cond_stage_model.model.", parts["text_encoder"])
    return write(path, unet(parts["unet"]) | vae(parts["vae"]) | text, metadata)


def write_sdxl(path: Path, parts: dict[str, Any], extra: Tensors | None = None) -> Path:
    tensors = unet(parts["unet"]) | vae(parts["vae"]) | (extra or {})
    second = "conditioner.embedders.0.model."
    if parts["text_encoder"] is not None:
        first = "conditioner.embedders.0.transformer.text_model."
        tensors |= under(first, named(parts["text_encoder"]))
        second = "conditioner.embedders.1.model."
    return write(path, tensors | open_clip(second, parts["text_encoder_2"]))


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata)
    return path


def unet(model: nn.Module) -> Tensors:
    per_block = model.config["layers_per_block"] + 1  # type: ignore[index]
    state = model.state_dict()

    def rename(name: str) -> str:
        for ours, theirs in OUTSIDE.items():
            if name.startswith(f"{ours}."):
                return theirs + name.removeprefix(ours)
        side, *rest = name.split(".", 1)
        if side == "mid_block":
            kind, number, tail = rest[0].split(".", 2)
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        else:
            block, kind, number, tail = rest[0].split(".", 3)
            first = int(block) * per_block
            if side == "down_blocks":
                place = f"input_blocks.{1 + first + int(number)}.{int(kind == 'attentions')}"
                if kind == "downsamplers":
                    return f"input_blocks.{first + per_block}.0.{tail.replace('conv', 'op')}"
            else:
                place = f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}"
                if kind == "upsamplers":
                    attends = any(key.startswith(f"up_blocks.{block}.attentions") for key in state)
                    return f"output_blocks.{first + per_block - 1}.{1 + attends}.{tail}"
        if kind == "resnets":
            piece, leaf = tail.rsplit(".", 1)
            tail = f"{RESNET[piece]}.{leaf}"
        return f"{place}.{tail}"

    return under("model.diffusion_model.", {rename(name): t for name, t in state.items()})


def vae(model: nn.Module) -> Tensors:
    last = len(model.config["block_out_channels"]) - 1  # type: ignore[index]
    changes = [
        (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block."),
        (r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"attn_1\.group_norm", "attn_1.norm"),
        (r"attn_1\.to_out\.0", "attn_1.proj_out"),
        (r"attn_1\.to_([qkv])", r"attn_1.\1"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in changes:
            name = re.sub(ours, theirs, name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            tensor = tensor[:, :, None, None]  # convolutions of one pixel there
        tensors[name] = tensor
    return under("first_stage_model.", tensors)


def open_clip(prefix: str, model: nn.Module) -> Tensors:
    state = named(model)
    tensors = {}
    changes = {
        "encoder.layers.": "transformer.resblocks.",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn": "attn",
        "final_layer_norm": "ln_final",
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if name == "text_projection.weight":
            tensors["text_projection"] = tensor.T
            continue
        if ".q_proj." in name:
            tensor = torch.cat([state[name.replace(".q_", f".{letter}_")] for letter in "qkv"])
            name = name.replace(".q_proj.", ".in_proj_")
        for ours, theirs in changes.items():
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    return under(prefix, tensors | {"logit_scale": torch.ones(())})


def named(model: nn.Module) -> Tensors:
    """Without the prefix that some versions of transformers set."""
    return {name.removeprefix("text_model."): t for name, t in model.state_dict().items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}
