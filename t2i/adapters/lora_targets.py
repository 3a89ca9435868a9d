"""Names of the modules that a LoRA can change, whatever their number: of the denoisers and text
encoders that can be loaded. A name that is none of them no model has."""

import re

NUMBER = r"\d{1,3}"
ATTENTION = r"(?:to_[qkv]|to_out\.0|add_[kv]_proj)"
"""add_k_proj and add_v_proj: Kandinsky's."""
RESNET = r"(?:conv[12]|time_emb_proj|conv_shortcut)"
TRANSFORMER = (
    rf"transformer_blocks\.{NUMBER}\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2))"
)
UNET = re.compile(
    r"conv_in|conv_out|(?:time|add|class)_embedding\.(?:linear_[12]|cond_proj)"
    r"|encoder_hid_proj(?:\.\w+){0,2}|add_embedding\.image_proj"
    rf"|(?:(?:down|up)_blocks\.{NUMBER}|mid_block)\."
    rf"(?:(?:resnets|downsamplers|upsamplers)\.{NUMBER}\.{RESNET}"
    rf"|(?:downsamplers|upsamplers)\.{NUMBER}\.conv"
    rf"|attentions\.{NUMBER}\.(?:proj_in|proj_out|{TRANSFORMER}|{ATTENTION}))"
)
PROJECTIONS = r"(?:[qkvo]|out|up|down|gate)_proj"
TEXT = re.compile(
    # CLIP
    r"text_projection"
    rf"|encoder\.layers\.{NUMBER}\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])"
    # BERT, DistilBERT
    rf"|encoder\.layer\.{NUMBER}\.(?:attention\.(?:self\.(?:query|key|value)|output\.dense)"
    r"|(?:intermediate|output)\.dense)|pooler\.dense"
    rf"|transformer\.layer\.{NUMBER}\.(?:attention\.(?:[qkv]|out)_lin|ffn\.lin[12])"
    # T5
    rf"|encoder\.block\.{NUMBER}\.layer\.[01]\.(?:SelfAttention\.[qkvo]|DenseReluDense\.w[io](?:_[01])?)"
    # GPT-2, GPT-NeoX, Llama and its like
    rf"|h\.{NUMBER}\.(?:attn\.c_(?:attn|proj)|mlp\.c_(?:fc|proj))"
    rf"|layers\.{NUMBER}\.(?:(?:self_attn|mlp)\.{PROJECTIONS}"
    r"|attention\.(?:query_key_value|dense)|mlp\.dense_(?:h_to_4h|4h_to_h))"
)


def is_module(part: str, name: str) -> bool:
    """Whether models have modules of that name in a part; numbers may still be too high."""
    return (UNET if part == "unet" else TEXT).fullmatch(name) is not None
