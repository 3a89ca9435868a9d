"""Every tensor of a single file is drawn with, known to be of no use, or named in a refusal."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.single_file import load_single_file
from t2i.denoiser.loading.single_file_checkpoint import identify_checkpoint
from t2i.denoiser.loading.unused_tensors import SCHEDULE_BUFFERS
from t2i.errors import ModelError
from tests.denoiser.original_layout import write_sd1, write_sd2, write_sdxl
from tests.denoiser.tiny_models import xl_components, xl_folder
from tests.tiny import tiny_sd_components, tiny_sd_folder

UNET = "model.diffusion_model."
ONE = torch.ones(1)


@pytest.fixture(
    scope="module",
    params=[
        "sd1",
        "sdxl",
        # Their text encoders are named as the second one of SDXL.
        pytest.param("sd2", marks=pytest.mark.long),
        pytest.param("refiner", marks=pytest.mark.long),
    ],
)
def made(request, tmp_path_factory):
    """The tensors of a checkpoint, the folder of its configs, and its parts."""
    place = tmp_path_factory.mktemp(request.param)
    if request.param in ("sd1", "sd2"):
        parts = tiny_sd_components()
        write = write_sd1 if request.param == "sd1" else write_sd2
        folder = tiny_sd_folder(place / "folder")
    else:
        parts = xl_components(refiner=request.param == "refiner")
        write, folder = write_sdxl, xl_folder(place / "folder", request.param == "refiner")
    return load_file(write(place / "model.safetensors", parts)), folder, parts


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    place = tmp_path_factory.mktemp("sd1")
    path = write_sd1(place / "model.safetensors", tiny_sd_components())
    return load_file(path), tiny_sd_folder(place / "folder")


def saved(tmp_path, tensors):
    path = tmp_path / "file.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def cousins(names):
    """Names near those of a checkpoint: another leaf, another number, one more level, no place."""
    for number, name in enumerate(sorted(names)):
        if "embedd" in name or number % 67:
            continue
        yield f"{name}2"
        yield re.sub(r"\.(\d+)\.", lambda m: f".{int(m[1]) + 50}.", name, count=1)
        head, _, leaf = name.rpartition(".")
        yield f"{head}.motion_modules.0.{leaf}"
        yield name.replace(".", "_")


def test_a_tensor_of_no_part_is_refused_by_name_wherever_it_stands(tmp_path, made):
    tensors, folder, _ = made
    tried = set(cousins(tensors)) - tensors.keys()
    assert len(tried) >= 12
    for name in sorted(tried):
        path = saved(tmp_path, tensors | {name: ONE})
        with pytest.raises(ModelError, match=re.escape(str(path))) as refused:
            load_single_file(path, config=folder)
        short = name.rsplit(".", 1)[-1]  # in a part, diffusers' name of the place stands before it
        assert short in str(refused.value), name


@pytest.mark.parametrize(
    "name",
    [
        f"{UNET}label_emb.0.0.weight",
        f"{UNET}middle_block.9.in_layers.0.weight",
        f"{UNET}input_blocks.1.2.motion.temporal_transformer.norm.weight",
        "control_model.input_hint_block.0.weight",
        "lora_unet_mid_block.lora_down.weight",
        "embedding_manager.string_to_param.*",
        "scaled_fp8",
    ],
)
def test_what_was_merged_into_a_model_is_refused_by_name(tmp_path, sd1, name):
    path = saved(tmp_path, sd1[0] | {name: ONE})
    message = rf"Refused .*1 tensor that no model .*{re.escape(name)}.*get the model without that"
    with pytest.raises(ModelError, match=message):
        load_single_file(path, config=sd1[1])


def test_what_training_and_libraries_leave_in_a_file_changes_nothing(tmp_path, made):
    tensors, folder, parts = made
    extras = dict.fromkeys(SCHEDULE_BUFFERS, ONE) | {
        "model_ema.decay": ONE,
        "model_ema.diffusion_modelinput_blocks00weight": ONE,
        "optimizer_states.0.exp_avg": ONE,
        "global_step": torch.tensor(7),
        "first_stage_model.loss.discriminator.main.0.weight": ONE,
    }
    for source in identify_checkpoint(saved(tmp_path, tensors)).family.sources.values():
        if source.class_name.startswith("CLIPText"):
            extras[f"{source.prefix}logit_scale"] = ONE
            if source.prefix.endswith(".transformer."):
                extras[f"{source.prefix}text_projection.weight"] = ONE
                extras[f"{source.prefix}text_model.embeddings.position_ids"] = ONE
                extras[f"{source.prefix}vision_model.embeddings.class_embedding"] = ONE
    loaded = load_single_file(saved(tmp_path, tensors | extras), config=folder)
    for part in loaded.keys() - {"scheduler", "tokenizer", "tokenizer_2"}:
        expected = parts[part].state_dict()
        assert loaded[part].state_dict().keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(loaded[part].state_dict()[name], tensor), name


def test_text_encoders_of_folders_may_carry_the_rest_of_their_clip(model):
    weights = model / "text_encoder/model.safetensors"
    extras = {"text_projection.weight": ONE, "logit_scale": ONE.clone()}
    save_file(load_file(weights) | extras, weights)
    read_and_check_folder(model)
    unet = model / "unet/diffusion_pytorch_model.safetensors"
    save_file(load_file(unet) | extras, unet)
    with pytest.raises(ModelError, match=r"2 unexpected \(logit_scale, text_projection.weight\)"):
        read_and_check_folder(model)


def test_a_text_encoder_of_another_kind_may_lie_where_one_is_given(tmp_path, sd1):
    tensors, _folder = sd1
    bert = {n: t for n, t in tensors.items() if not n.startswith("cond_stage")}
    bert["cond_stage_model.bert.embeddings.weight"] = ONE
    # the width of the text tells the family where no known text encoder does
    attends = [n for n in bert if n.endswith(".attn2.to_k.weight")]
    bert |= {n: torch.ones(bert[n].shape[0], 768) for n in attends}
    found = identify_checkpoint(saved(tmp_path, bert))
    assert found.list_tensors_outside_parts() == ["cond_stage_model.bert.embeddings.weight"]
    assert found.list_tensors_outside_parts({"text_encoder": None}) == []


def test_quantized_weights_of_a_single_file_are_refused(tmp_path, sd1):
    name = next(n for n in sd1[0] if n.endswith("attn1.to_q.weight"))
    path = saved(tmp_path, sd1[0] | {name: sd1[0][name].to(torch.float8_e4m3fn)})
    with pytest.raises(ModelError, match=rf"{path} has the tensor {name} as F8_E4M3, expected"):
        load_single_file(path, config=sd1[1])
