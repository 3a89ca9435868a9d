"""Conversion of module names between diffusers, kohya's files and the original code.

kohya joins a path with underscores, "down_blocks_0_attentions_1_proj_in", and uses the names of the
original code for SDXL, "input_blocks_4_1_proj_in".
"""

import re
from collections.abc import Iterable

KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""Prefix of a kohya key -> model part."""
TWO_ENCODER_PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
}
ONE_ENCODER_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
"""Model part -> prefix of its kohya keys, for models with two text encoders or one."""

TEXT_MODEL_PREFIX = "text_model."
"""Prefix of a CLIP text encoder's modules, in files and in some versions of transformers."""
UNDERSCORED_WORDS = frozenset(
    (
        "add_embedding conv_in conv_out conv_shortcut down_blocks linear_1 linear_2 mid_block "
        "out_proj proj_in proj_out q_proj k_proj v_proj self_attn text_model text_projection "
        "time_emb_proj time_embedding to_k to_out to_q to_v transformer_blocks up_blocks "
        "c_attn c_fc c_proj dense_4h_to_h dense_h_to_4h down_proj gate_proj k_lin o_proj "
        "out_lin q_lin query_key_value up_proj v_lin wi_0 wi_1"
    ).split()
)
SINGLE_WORDS = frozenset(
    (
        "attentions attn1 attn2 conv conv1 conv2 downsamplers encoder fc1 fc2 ff layers mlp "
        "net proj resnets upsamplers DenseReluDense SelfAttention attention attn block dense "
        "ffn h intermediate k key layer lin1 lin2 o output pooler q query self transformer v "
        "value wi wo"
    ).split()
)
"""Path components; those after the first lines are of other text encoders than CLIP."""
CLIP_MODULE_PREFIXES = ("encoder.layers.", "embeddings.", "final_layer_norm")
RESNET_MODULES = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
OUTER_MODULES = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
"""Modules outside the blocks: name in the original code -> in diffusers."""
ORIGINAL_BLOCK = re.compile(r"(input|output)_blocks_(\d{1,3})_([012])_(\w+)")
ORIGINAL_MIDDLE_BLOCK = re.compile(r"middle_block_([012])_(\w+)")
DIFFUSERS_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)"
    r"\.(.+)"
)


def strip_module_name_prefixes(name: str) -> str:
    """Return a module's name without the prefixes of torch.compile and CLIP, as `Lora` uses it."""
    return name.removeprefix("_orig_mod.").removeprefix(TEXT_MODEL_PREFIX)


def module_name_in_lora_file(part: str, name: str) -> str:
    """Return a module's name as LoRA files write it: CLIP's modules with "text_model."."""
    return (
        TEXT_MODEL_PREFIX + name
        if part != "unet" and name.startswith(CLIP_MODULE_PREFIXES)
        else name
    )


def replace_dots(name: str) -> str:
    """Replace the dots of a module path by underscores, as kohya does."""
    return name.replace(".", "_")


def convert_unprefixed_kohya_name(name: str, layers_per_block: int) -> str:
    """Convert a kohya LoRA's module name, without its prefix, to diffusers' module name.

    layers_per_block : of the UNet; the original code numbers its blocks by it; 2 in all published
        models

    Raises ValueError for an unknown name.
    """
    if name in OUTER_MODULES:
        return OUTER_MODULES[name]
    if match := ORIGINAL_BLOCK.fullmatch(name):
        side, number, inner = match[1], int(match[2]), int(match[3])
        block, place = divmod(number - (side == "input"), layers_per_block + 1)
        direction = "down" if side == "input" else "up"
        return f"{direction}_blocks.{block}.{convert_original_block_name(inner, place, match[4])}"
    if match := ORIGINAL_MIDDLE_BLOCK.fullmatch(name):
        number = int(match[1])
        return f"mid_block.{convert_original_block_name(number % 2, number // 2, match[2])}"
    return strip_module_name_prefixes(restore_dots(name))


def convert_original_block_name(inner: int, place: int, rest: str) -> str:
    """Convert a module's name inside a UNet block from SDXL's original code to diffusers' name.

    inner : 0 for a resnet or downsampler, 1 for attention
    place : index of the layer in the block
    """
    if rest == "op":
        return "downsamplers.0.conv"
    if rest == "conv":
        return "upsamplers.0.conv"
    if inner == 0:
        if rest not in RESNET_MODULES:
            raise ValueError(rest)
        return f"resnets.{place}.{RESNET_MODULES[rest]}"
    return f"attentions.{place}.{restore_dots(rest)}"


def restore_dots(name: str) -> str:
    """Restore the dots of an underscored module path, matching the longest known component first.

    Raises ValueError for an unknown component.
    """
    components: list[str] = []
    rest = name.split("_")
    while rest:
        length = next(
            (
                size
                for size in (4, 3, 2)
                if "_".join(rest[:size]) in UNDERSCORED_WORDS and len(rest) >= size
            ),
            1,
        )
        word = "_".join(rest[:length])
        if length == 1 and word not in SINGLE_WORDS and not word.isdecimal():
            raise ValueError(name)
        components.append(word)
        rest = rest[length:]
    return ".".join(components)


def to_original_sdxl_name(name: str, layers_per_block: int) -> str:
    """Convert a UNet module's name from diffusers' to that of SDXL's original code, with
    underscores.

    Raises ValueError for a module that the original code does not have.
    """
    for theirs, ours in OUTER_MODULES.items():
        if ours == name:
            return theirs
    match = DIFFUSERS_BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(name)
    side, block, group, place, rest = (
        match[1],
        int(match[2] or 0),
        match[3],
        int(match[4]),
        match[5],
    )
    stride = layers_per_block + 1
    if group == "downsamplers":
        return f"input_blocks_{(block + 1) * stride}_0_op"
    if group == "upsamplers":
        return f"output_blocks_{block * stride + layers_per_block}_2_conv"
    inner = int(group == "attentions")
    if group == "resnets":
        known = {ours: theirs for theirs, ours in RESNET_MODULES.items()}
        if rest not in known:
            raise ValueError(name)
        rest = known[rest]
    rest = replace_dots(rest)
    if side is None:
        return f"middle_block_{1 if inner else 2 * place}_{rest}"
    if side == "down":
        return f"input_blocks_{block * stride + place + 1}_{inner}_{rest}"
    return f"output_blocks_{block * stride + place}_{inner}_{rest}"


def summarize_names(names: Iterable[str], most: int = 3) -> str:
    """Format names for a message: the first `most` in sorted order, and the number of further ones,
    as in "a, b, c and 5 more".
    """
    known = sorted(names)
    more = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(map(printable_name, known[:most])) + more


def printable_name(name: str) -> str:
    """Return an untrusted name for use in messages: shortened, unprintable characters replaced by
    "?".
    """
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
