"""Parsing of tensor keys in LoRA files: model part, module, and field of the layer."""

import re
from typing import NamedTuple

from t2i.adapters.lora_modules import is_known_module
from t2i.adapters.module_names import (
    KOHYA_PREFIXES,
    convert_unprefixed_kohya_name,
    replace_dots,
    strip_module_name_prefixes,
)


class ParsedKey(NamedTuple):
    """Parsed key of a LoRA tensor: model part, module and field.

    part : "unet", "text_encoder" or "text_encoder_2"
    module : name of the module inside its part
    field : down, up, mid, magnitude, dora_scale or alpha; or a factor such as "hada_w1_a"
    """

    part: str
    module: str
    field: str


PEFT_PREFIX = "base_model.model."
COMFY_PREFIXES = ("diffusion_model.", "model.diffusion_model.")
"""Prefixes of UNet modules in the original format, with dots."""
ORIGINAL_UNET_PREFIXES = (
    "input_blocks.",
    "middle_block.",
    "output_blocks.",
    "time_embed.",
    "label_emb.",
    "out.",
)
"""First components of original names; some files put "unet." before them."""
LYCORIS_PREFIX = "lycoris_"
"""Prefix of underscored names in files that lycoris itself trained, of one part."""
UNET_PREFIXES = (
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in",
    "conv_out",
    "time_embedding.",
    "add_embedding.",
)
TEXT_ENCODER_PREFIXES = ("text_model.", "encoder.layers.", "text_projection")

FIELD_PATTERNS = (
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
"""Ending of a key -> field; "" takes the field from the match."""
KEY_PATTERNS = [(re.compile(rf"(.+?)\.{ending}"), field) for ending, field in FIELD_PATTERNS]
OLD_DIFFUSERS_KEY = re.compile(r"(.+)\.to_(q|k|v|out)_lora\.(down|up)\.weight")
"""Key of diffusers' files from the time when LoRA was an attention processor."""
OLD_TEXT_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
OLD_UNET_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def parse_key(key: str, layers_per_block: int, part: str | None = None) -> ParsedKey | None:
    """Parse a LoRA tensor's key into part, module and field, or return None for an unknown format.

    part : the model part, where the file is known to hold only one
    """
    if match := OLD_DIFFUSERS_KEY.fullmatch(key):
        path, letter, field = match.groups()
        projections = OLD_TEXT_PROJECTIONS if path.endswith("self_attn") else OLD_UNET_PROJECTIONS
        path = f"{path.removesuffix('.processor')}.{projections[letter]}"
    else:
        for ending, known in KEY_PATTERNS:
            if match := ending.fullmatch(key):
                path, field = match[1], known or match[2]
                break
        else:
            return None
    try:
        found_part, module = parse_module_path(
            path.replace(".processor.", "."), layers_per_block, part
        )
    except ValueError:
        return None
    return ParsedKey(found_part, module, field) if is_known_module(found_part, module) else None


def parse_module_path(path: str, layers_per_block: int, part: str | None) -> tuple[str, str]:
    """Return the model part and module name that the module path in a LoRA tensor's key names.
    Raises ValueError for an unknown path.
    """
    for prefix, prefix_part in KOHYA_PREFIXES.items():
        if path.startswith(prefix) and "." not in path:
            return prefix_part, convert_unprefixed_kohya_name(
                path.removeprefix(prefix), layers_per_block
            )
    if path.startswith(LYCORIS_PREFIX) and "." not in path:
        module = convert_unprefixed_kohya_name(path.removeprefix(LYCORIS_PREFIX), layers_per_block)
        return part or ("unet" if is_known_module("unet", module) else "text_encoder"), module
    path = path.removeprefix(PEFT_PREFIX)
    for prefix in COMFY_PREFIXES:
        if path.startswith(prefix):
            return "unet", convert_unprefixed_kohya_name(
                replace_dots(path.removeprefix(prefix)), layers_per_block
            )
    first, _, rest = path.partition(".")
    if first in ("unet", "text_encoder", "text_encoder_2") and rest:
        rest = rest.removeprefix(PEFT_PREFIX)
        if first == "unet" and rest.startswith(ORIGINAL_UNET_PREFIXES):
            return first, convert_unprefixed_kohya_name(replace_dots(rest), layers_per_block)
        return first, strip_module_name_prefixes(rest)
    if part is not None:
        return part, strip_module_name_prefixes(path)
    if path.startswith(UNET_PREFIXES):
        return "unet", path
    if path.startswith(TEXT_ENCODER_PREFIXES):
        return "text_encoder", strip_module_name_prefixes(path)
    raise ValueError(path)
