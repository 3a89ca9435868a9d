"""The key of a tensor in a LoRA file taken apart: part of a model, module, and what it is there."""

import re
from typing import NamedTuple

from t2i.adapters.lora_targets import is_module
from t2i.adapters.module_names import PREFIXES, flat, from_flat, plain


class Place(NamedTuple):
    """Where a tensor belongs.

    field : down, up, mid, magnitude, dora_scale or alpha; or a factor such as "hada_w1_a"
    """

    part: str
    module: str
    field: str


PEFT = "base_model.model."
COMFY = ("diffusion_model.", "model.diffusion_model.")
"""Before the names of a UNet in the original layout, with dots."""
ORIGINAL = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
"""How those names begin; some files have them behind "unet."."""
LYCORIS = "lycoris_"
"""Before the flat names of one model that lycoris itself trained."""
OF_UNET = (
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in",
    "conv_out",
    "time_embedding.",
    "add_embedding.",
)
OF_TEXT = ("text_model.", "encoder.layers.", "text_projection")

FIELDS = (
    (r"lora_A(?:\.default)?\.weight", "down"),
    (r"lora_B(?:\.default)?\.weight", "up"),
    (r"lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude"),
    (r"lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"lora_down\.weight", "down"),
    (r"lora_up\.weight", "up"),
    (r"lora_mid\.weight", "mid"),
    (r"alpha", "alpha"),
    (r"dora_scale", "dora_scale"),
    (r"(hada_(?:w1_a|w1_b|w2_a|w2_b|t1|t2))(?:\.default)?", ""),
    (r"(lokr_(?:w1|w1_a|w1_b|w2|w2_a|w2_b|t2))(?:\.default)?", ""),
)
"""How a key ends -> what the tensor is; "" takes it from the key."""
ENDINGS = [(re.compile(rf"(.+?)\.{ending}"), field) for ending, field in FIELDS]
OLD = re.compile(r"(.+)\.to_(q|k|v|out)_lora\.(down|up)\.weight")
"""As diffusers wrote it while LoRA was a processor of attention."""
OLD_TEXT = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
OLD_UNET = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def placed(key: str, layers_per_block: int, part: str | None = None) -> Place | None:
    """Where a tensor belongs; None for a key of no known kind.

    part : of the model, where the file is known to be of one
    """
    if match := OLD.fullmatch(key):
        path, letter, field = match.groups()
        new = OLD_TEXT if path.endswith("self_attn") else OLD_UNET
        path = f"{path.removesuffix('.processor')}.{new[letter]}"
    else:
        for ending, known in ENDINGS:
            if match := ending.fullmatch(key):
                path, field = match[1], known or match[2]
                break
        else:
            return None
    try:
        where, module = of_model(path.replace(".processor.", "."), layers_per_block, part)
    except ValueError:
        return None
    return Place(where, module, field) if is_module(where, module) else None


def of_model(path: str, layers_per_block: int, part: str | None) -> tuple[str, str]:
    """The part and the module that a path means. Raises ValueError for none."""
    for prefix, of in PREFIXES.items():
        if path.startswith(prefix) and "." not in path:
            return of, from_flat(path.removeprefix(prefix), layers_per_block)
    if path.startswith(LYCORIS) and "." not in path:
        module = from_flat(path.removeprefix(LYCORIS), layers_per_block)
        return part or ("unet" if is_module("unet", module) else "text_encoder"), module
    path = path.removeprefix(PEFT)
    for prefix in COMFY:
        if path.startswith(prefix):
            return "unet", from_flat(flat(path.removeprefix(prefix)), layers_per_block)
    first, _, rest = path.partition(".")
    if first in ("unet", "text_encoder", "text_encoder_2") and rest:
        rest = rest.removeprefix(PEFT)
        if first == "unet" and rest.startswith(ORIGINAL):
            return first, from_flat(flat(rest), layers_per_block)
        return first, plain(rest)
    if part is not None:
        return part, plain(path)
    if path.startswith(OF_UNET):
        return "unet", path
    if path.startswith(OF_TEXT):
        return "text_encoder", plain(path)
    raise ValueError(path)
