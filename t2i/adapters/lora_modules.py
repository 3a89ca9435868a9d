"""Names of the modules that a LoRA can change, as patterns, in every supported denoiser and text
encoder.
"""

import re

INDEX_PATTERN = r"\d{1,3}"
ATTENTION_MODULE_PATTERN = r"(?:to_[qkv]|to_out\.0|add_[kv]_proj)"
"""add_k_proj and add_v_proj are Kandinsky's."""
RESNET_MODULE_PATTERN = r"(?:conv[12]|time_emb_proj|conv_shortcut)"
TRANSFORMER_MODULE_PATTERN = (
    rf"transformer_blocks\.{INDEX_PATTERN}"
    r"\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2))"
)
UNET_MODULE_PATTERN = re.compile(
    r"conv_in|conv_out|(?:time|add|class)_embedding\.(?:linear_[12]|cond_proj)"
    r"|encoder_hid_proj(?:\.\w+){0,2}|add_embedding\.image_proj"
    rf"|(?:(?:down|up)_blocks\.{INDEX_PATTERN}|mid_block)\."
    rf"(?:(?:resnets|downsamplers|upsamplers)\.{INDEX_PATTERN}\.{RESNET_MODULE_PATTERN}"
    rf"|(?:downsamplers|upsamplers)\.{INDEX_PATTERN}\.conv"
    rf"|attentions\.{INDEX_PATTERN}\.(?:proj_in|proj_out|{TRANSFORMER_MODULE_PATTERN}|{ATTENTION_MODULE_PATTERN}))"
)
PROJECTION_PATTERN = r"(?:[qkvo]|out|up|down|gate)_proj"
TEXT_ENCODER_MODULE_PATTERN = re.compile(
    # CLIP
    r"text_projection"
    rf"|encoder\.layers\.{INDEX_PATTERN}\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])"
    # BERT, DistilBERT
    rf"|encoder\.layer\.{INDEX_PATTERN}\.(?:attention\.(?:self\.(?:query|key|value)|output\.dense)"
    r"|(?:intermediate|output)\.dense)|pooler\.dense"
    rf"|transformer\.layer\.{INDEX_PATTERN}\.(?:attention\.(?:[qkv]|out)_lin|ffn\.lin[12])"
    # T5
    rf"|encoder\.block\.{INDEX_PATTERN}\.layer\.[01]\.(?:SelfAttention\.[qkvo]|DenseReluDense\.w[io](?:_[01])?)"
    # GPT-2, GPT-NeoX, Llama
    rf"|h\.{INDEX_PATTERN}\.(?:attn\.c_(?:attn|proj)|mlp\.c_(?:fc|proj))"
    rf"|layers\.{INDEX_PATTERN}\.(?:(?:self_attn|mlp)\.{PROJECTION_PATTERN}"
    r"|attention\.(?:query_key_value|dense)|mlp\.dense_(?:h_to_4h|4h_to_h))"
)


def is_known_module(part: str, name: str) -> bool:
    """Return True if a supported denoiser or text encoder can have a module of this name; block and
    layer numbers are not checked.
    """
    return (UNET_MODULE_PATTERN if part == "unet" else TEXT_ENCODER_MODULE_PATTERN).fullmatch(
        name
    ) is not None
