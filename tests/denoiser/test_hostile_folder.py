"""Hostile model folders: refused by name, cheaply, and without a look outside."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.errors import ModelError
from tests.denoiser.conftest import UNET_FILE, rewrite_json

# safe


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["os", "system"]),
        ("unet", ["diffusers", "AutoencoderKL"]),
        ("vae", ["vae", "MyVAE"]),
        ("scheduler", ["diffusers", "DiffusionPipeline"]),
        ("tokenizer", "CLIPTokenizer"),
    ],
)
def test_classes_from_elsewhere_are_refused(model, part, entry):
    rewrite_json(model / "model_index.json", **{part: entry})
    with pytest.raises(ModelError, match=f"has {part} .*, expected one of "):
        read_and_check_folder(model)


def test_a_folder_that_brings_its_own_pipeline_code_is_refused(model):
    rewrite_json(model / "model_index.json", _class_name=["pipeline", "MyPipeline"])
    with pytest.raises(ModelError, match="requires code of its own"):
        read_and_check_folder(model)


def test_a_config_no_model_can_be_built_from_is_refused(model):
    rewrite_json(model / "unet/config.json", down_block_types=["NoSuchBlock", "DownBlock2D"])
    with pytest.raises(
        ModelError, match=r"does not describe a UNet2DConditionModel: .*NoSuchBlock"
    ):
        read_and_check_folder(model)


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("model_index.json", {"extra": ["my_module", "X"]}, "has extra .*requires code of its own"),
        ("model_index.json", {"custom_pipeline": "x.py"}, "custom_pipeline requires code"),
        ("unet/config.json", {"auto_map": {"AutoModel": "m.X"}}, "auto_map requires code"),
        ("unet/config.json", {"_class_name": ["m", "X"]}, "_class_name .* requires code"),
        ("unet/config.json", {"_class_name": "VQModel"}, "describes a VQModel, expected a UNet2D"),
        ("text_encoder/config.json", {"trust_remote_code": True}, "trust_remote_code requires"),
        ("text_encoder/config.json", {"a": [{"auto_map": "m.X"}]}, "auto_map requires code"),
        ("text_encoder/config.json", {"attn_implementation": "who/what"}, "requires code"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": "m.X"}}, "requires cod"),
    ],
)
def test_configs_that_ask_for_code_are_refused(model, file, entry, message):
    rewrite_json(model / file, **entry)
    with pytest.raises(ModelError, match=f"Refused .*{message}|{message}"):
        read_and_check_folder(model)


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("unet/config.json", {"weights": "/etc/passwd"}),
        ("vae/config.json", {"a": [{"b": "../../x"}]}),
        ("scheduler/scheduler_config.json", {"trained_betas": "C:\\x"}),
        ("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
        ("tokenizer/tokenizer_config.json", {"merges_file": "../x"}),
    ],
)
def test_configs_that_name_files_outside_the_folder_are_refused(model, file, entry):
    rewrite_json(model / file, **entry)
    with pytest.raises(ModelError, match="names a file outside the folder"):
        read_and_check_folder(model)


def test_where_a_file_once_lay_is_no_harm(model):
    rewrite_json(model / "unet/config.json", _name_or_path="/home/somebody/unet")
    rewrite_json(model / "tokenizer/tokenizer_config.json", special_tokens_map_file="/home/x.json")
    read_and_check_folder(model)


def test_links_out_of_the_folder_are_refused(model, whole):
    (model / UNET_FILE).unlink()
    (model / UNET_FILE).symlink_to(whole / UNET_FILE)
    with pytest.raises(ModelError, match=r"is a link to .*whole.*outside the folder"):
        read_and_check_folder(model)
    shutil.rmtree(model / "unet")
    (model / "unet").symlink_to(whole / "unet")
    with pytest.raises(ModelError, match=r"is a link to .*whole.*outside the folder"):
        read_and_check_folder(model)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(model):
    (model / "unet/config.json").unlink()
    os.mkfifo(model / "unet/config.json")
    with pytest.raises(ModelError, match="is not a plain file"):
        read_and_check_folder(model)


# cheap to refuse


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000, exp"),
        ("unet/config.json", {"layers_per_block": 10**5}, "would have more than 6000 modules"),
        ("text_encoder/config.json", {"num_labels": 10**9}, "num_labels is 1000000000, expected"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "expected at most"),
    ],
)
def test_huge_numbers_are_refused_before_anything_is_built(model, file, entry, message):
    rewrite_json(model / file, **entry)
    with pytest.raises(ModelError, match=message):
        read_and_check_folder(model)


def test_huge_shapes_cost_no_memory(model):
    rewrite_json(model / "unet/config.json", block_out_channels=[10**6, 10**6])
    with pytest.raises(ModelError, match=r"misshapen \(conv_in.bias is \[16\] instead of"):
        read_and_check_folder(model)


def test_a_config_of_a_hundred_megabytes_is_not_read(model):
    with (model / "unet/config.json").open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(ModelError, match=r"config.json: it has 100,000,000 bytes, at most"):
        read_and_check_folder(model)


def test_a_config_nested_a_hundred_thousand_deep_is_refused(model):
    (model / "unet/config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match=r"unet/config.json is not readable JSON"):
        read_and_check_folder(model)


def with_header(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def test_a_header_that_claims_too_much_is_refused(model):
    (model / UNET_FILE).write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"its header claims 1152921504606846976 bytes"):
        read_and_check_folder(model)


def test_tensors_that_overlap_are_refused(model):
    tensor = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
    with_header(model / UNET_FILE, json.dumps({"a": tensor, "b": tensor}).encode())
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        read_and_check_folder(model)


# numbers of a kind that no weight has


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn],
    ids=str,
)
@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
)
def test_weights_that_are_no_floating_point_are_refused_by_file_tensor_and_type(model, file, dtype):
    tensors = load_file(model / file)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, model / file)
    with pytest.raises(
        ModelError, match=rf"{file} has the tensor {name} as \w+, expected floating .*F16, BF16"
    ):
        read_and_check_folder(model)
