"""The names that are taken for modules are those of the models, and no others."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from t2i.adapters import (
    KohyaMetadata,
    read_lora,
    resize_lora,
    summarize_lora,
    write_diffusers_lora,
    write_kohya_lora,
)
from t2i.adapters.lora_modules import is_known_module
from t2i.adapters.module_names import (
    convert_unprefixed_kohya_name,
    module_name_in_lora_file,
    replace_dots,
    strip_module_name_prefixes,
    to_original_sdxl_name,
)
from t2i.errors import ModelError
from t2i.text.encoders.selection import ENCODER_CLASS_BY_MODEL_TYPE
from tests.adapters.made import components, models_of
from tests.adapters.test_names import layers, skeletons
from tests.denoiser.tiny_models import kandinsky_components

MODULE = "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k"
ORIGINAL = "output_blocks.1.1.transformer_blocks.0.attn2.to_k"
TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_heads": 2, "n_head": 2, "n_heads": 2,
    "d_model": 16, "d_kv": 8, "d_ff": 32, "dim": 16, "n_embd": 16, "hidden_dim": 32,
    "intermediate_size": 32, "vocab_size": 40, "n_positions": 8, "head_dim": 8,
}  # fmt: skip


def carriers(model):
    kinds = (nn.Linear, nn.Conv2d, Conv1D)
    return {
        strip_module_name_prefixes(name)
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_layer_of_the_published_models_is_known(family):
    for part, model in skeletons(family).items():
        assert [name for name in layers(model) if not is_known_module(part, name)] == []


@pytest.mark.parametrize("kind", sorted(ENCODER_CLASS_BY_MODEL_TYPE))
def test_every_layer_of_every_kind_of_text_encoder_is_known(kind):
    if kind == "clip_text_model":
        model = components("sdxl")["text_encoder_2"]
    else:
        known = AutoConfig.for_model(kind)
        small = {name: value for name, value in TINY.items() if hasattr(known, name)}
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(kind, **small))
        model = getattr(model, "encoder", model) if kind.endswith("t5") else model
    names = carriers(model)
    names = {f"encoder.{name}" for name in names} if kind.endswith("t5") else names
    assert len(names) > 5
    assert sorted(name for name in names if not is_known_module("text_encoder", name)) == []
    assert {
        convert_unprefixed_kohya_name(
            replace_dots(module_name_in_lora_file("text_encoder", name)), 2
        )
        for name in names
    } == names


def test_every_layer_of_the_tiny_models_and_of_kandinsky_is_known():
    for family in ("sd1", "sdxl"):
        for part, model in models_of(components(family)).items():
            assert [name for name in layers(model) if not is_known_module(part, name)] == []
    unet = kandinsky_components()["unet"]
    assert [name for name in layers(unet) if not is_known_module("unet", name)] == []


def test_a_name_of_the_original_code_is_no_name_of_a_module():
    for name in layers(skeletons("sdxl")["unet"]):
        dotted = re.sub(r"_(\d+)", r".\1", to_original_sdxl_name(name, 2))
        if name not in ("conv_in", "conv_out") and not name.startswith(("time_", "add_")):
            assert not is_known_module("unet", dotted), dotted


FORMS = {
    "diffusers": f"unet.{MODULE}",
    "after unet.": f"unet.{ORIGINAL}",
    "after diffusion_model.": f"diffusion_model.{ORIGINAL}",
    "as in a checkpoint": f"model.diffusion_model.{ORIGINAL}",
    "of peft": f"base_model.model.unet.{ORIGINAL}",
    "kohya": f"lora_unet_{ORIGINAL.replace('.', '_')}",
    "kohya, names of diffusers": f"lora_unet_{MODULE.replace('.', '_')}",
    "lycoris": f"lycoris_{MODULE.replace('.', '_')}",
    "lycoris, original names": f"lycoris_{ORIGINAL.replace('.', '_')}",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_one_module_is_read_under_every_name_and_written_under_names_that_models_have(
    form, tmp_path
):
    path = tmp_path / "one.safetensors"
    pair = {"lora_down.weight": torch.randn(2, 2048), "lora_up.weight": torch.randn(640, 2)}
    save_file({f"{form}.{field}": tensor for field, tensor in pair.items()}, path)
    found = read_lora(path)
    assert [(part, name) for part, name, _ in found.iter_layers()] == [("unet", MODULE)]
    assert summarize_lora(found)[0].modules == {"attn2.to_k": 1}
    for write in (
        write_diffusers_lora,
        lambda p, lora: write_kohya_lora(p, lora, KohyaMetadata(family="sdxl")),
    ):
        write(path, resize_lora(found, rank=1).lora)
        assert list(read_lora(path).parts["unet"]) == [MODULE]


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("lycoris_text_model_encoder_layers_1_mlp_fc1", "text_encoder"),
        ("lycoris_encoder_layers_1_mlp_fc1", "text_encoder"),
        ("text_encoder_2.text_model.encoder.layers.1.mlp.fc1", "text_encoder_2"),
    ],
)
def test_modules_of_text_encoders_are_read_by_lycoris_names_too(key, part, tmp_path):
    path = tmp_path / "one.safetensors"
    save_file(
        {f"{key}.lora_down.weight": torch.ones(1, 4), f"{key}.lora_up.weight": torch.ones(4, 1)},
        path,
    )
    assert list(read_lora(path).parts[part]) == ["encoder.layers.1.mlp.fc1"]


NOWHERE = [
    "unet.output_blocks.1.7.transformer_blocks.0.attn2.to_k",
    "unet.middle_block.9.transformer_blocks.0.attn2.to_k",
    "unet.input_blocks.x",
    "unet.somewhere.to_k",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn3.to_k",
    "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2",
    "unet.down_blocks.0.resnets.0.conv3",
    "unet.encoder.layers.0.mlp.fc1",
    "text_encoder.down_blocks.0.resnets.0.conv1",
    "text_encoder.encoder.layers.0.self_attn.to_k",
    "lycoris_down_blocks_0_attentions_0_to_x",
    "lora_unet_to_k_to_q",
    "transformer.single_transformer_blocks.0.attn.to_q",
]


@pytest.mark.parametrize("key", NOWHERE)
def test_a_name_that_no_model_has_is_refused_and_never_written_on(key, tmp_path):
    path = tmp_path / "one.safetensors"
    save_file(
        {f"{key}.lora_down.weight": torch.ones(1, 4), f"{key}.lora_up.weight": torch.ones(4, 1)},
        path,
    )
    with pytest.raises(ModelError, match=rf"2 of its 2 tensors .*{re.escape(key)}"):
        read_lora(path)
