"""Names of modules: as diffusers has them, and as kohya's files write them.

kohya joins a path with underscores, "down_blocks_0_attentions_1_proj_in", and for SDXL takes the
names of the original code, "input_blocks_4_1_proj_in".
"""

import re
from collections.abc import Iterable

PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""What begins a key of kohya's -> the part it is of."""
OF_TWO = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
OF_ONE = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
"""Part -> what begins its keys in a file for models with two text encoders, or one."""

WHOLE = "text_model."
"""Before the names in a text encoder, in files and in some versions of transformers."""
UNDERSCORED = frozenset(
    "add_embedding conv_in conv_out conv_shortcut down_blocks linear_1 linear_2 mid_block "
    "out_proj proj_in proj_out q_proj k_proj v_proj self_attn text_model text_projection "
    "time_emb_proj time_embedding to_k to_out to_q to_v transformer_blocks up_blocks "
    "c_attn c_fc c_proj dense_4h_to_h dense_h_to_4h down_proj gate_proj k_lin o_proj out_lin q_lin "
    "query_key_value up_proj v_lin wi_0 wi_1".split()
)
PLAIN = frozenset(
    "attentions attn1 attn2 conv conv1 conv2 downsamplers encoder fc1 fc2 ff layers mlp net proj "
    "resnets upsamplers DenseReluDense SelfAttention attention attn block dense ffn h intermediate "
    "k key layer lin1 lin2 o output pooler q query self transformer v value wi wo".split()
)
"""Words of paths; those behind the first lines are of other text encoders than CLIP."""
OF_CLIP = ("encoder.layers.", "embeddings.", "final_layer_norm")
RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
AROUND = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
"""What stands beside the blocks in the original code -> in diffusers."""
BLOCK = re.compile(r"(input|output)_blocks_(\d{1,3})_([012])_(\w+)")
MIDDLE = re.compile(r"middle_block_([012])_(\w+)")
DOTTED = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)"
    r"\.(.+)"
)


def plain(name: str) -> str:
    """The name of a module as a Lora has it."""
    return name.removeprefix("_orig_mod.").removeprefix(WHOLE)


def whole(part: str, name: str) -> str:
    """The name as files write it, of CLIP with its "text_model."."""
    return WHOLE + name if part != "unet" and name.startswith(OF_CLIP) else name


def flat(name: str) -> str:
    return name.replace(".", "_")


def from_flat(name: str, layers_per_block: int) -> str:
    """The name in diffusers of what kohya calls `name`, without its prefix.

    layers_per_block : of the UNet, which the names of the original code count by; 2 in all that
        are published
    Raises ValueError for what cannot be read.
    """
    if name in AROUND:
        return AROUND[name]
    if match := BLOCK.fullmatch(name):
        side, number, inner = match[1], int(match[2]), int(match[3])
        block, place = divmod(number - (side == "input"), layers_per_block + 1)
        return (
            f"{'down' if side == 'input' else 'up'}_blocks.{block}.{inside(inner, place, match[4])}"
        )
    if match := MIDDLE.fullmatch(name):
        number = int(match[1])
        return f"mid_block.{inside(number % 2, number // 2, match[2])}"
    return plain(dotted(name))


def inside(inner: int, place: int, rest: str) -> str:
    """Within a block of the original code: 0 is a resnet or downsampler, 1 attention, and the last
    an upsampler."""
    if rest == "op":
        return "downsamplers.0.conv"
    if rest == "conv":
        return "upsamplers.0.conv"
    if inner == 0:
        if rest not in RESNET:
            raise ValueError(rest)
        return f"resnets.{place}.{RESNET[rest]}"
    return f"attentions.{place}.{dotted(rest)}"


def dotted(name: str) -> str:
    """Put the dots back: each word or number of a path, the longest that is known first."""
    found: list[str] = []
    rest = name.split("_")
    while rest:
        length = next(
            (
                size
                for size in (4, 3, 2)
                if "_".join(rest[:size]) in UNDERSCORED and len(rest) >= size
            ),
            1,
        )
        word = "_".join(rest[:length])
        if length == 1 and word not in PLAIN and not word.isdecimal():
            raise ValueError(name)
        found.append(word)
        rest = rest[length:]
    return ".".join(found)


def original(name: str, layers_per_block: int) -> str:
    """What SDXL's original code, and so kohya, calls a module of the UNet.

    Raises ValueError for a module that it does not have.
    """
    for theirs, ours in AROUND.items():
        if ours == name:
            return theirs
    match = DOTTED.fullmatch(name)
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
        known = {ours: theirs for theirs, ours in RESNET.items()}
        if rest not in known:
            raise ValueError(name)
        rest = known[rest]
    rest = flat(rest)
    if side is None:
        return f"middle_block_{1 if inner else 2 * place}_{rest}"
    if side == "down":
        return f"input_blocks_{block * stride + place + 1}_{inner}_{rest}"
    return f"output_blocks_{block * stride + place}_{inner}_{rest}"


def spell(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    known = sorted(names)
    more = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(map(shown, known[:most])) + more


def shown(name: str) -> str:
    """A name that somebody else chose: cut short, and nothing in it commands a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
