"""Model folders: found by name, whole, safe, or refused with the reason."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5EncoderModel,
)

from t2i.denoiser.loading import model_location
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import locate_model
from t2i.errors import ModelError
from tests.denoiser.conftest import UNET_FILE, rewrite_json
from tests.denoiser.tiny_models import kandinsky_folder, prior_folder, xl_folder
from tests.tiny import diffusers_pipeline, tiny_sd_components, tiny_small_vae

# found by name


def test_a_folder_is_found_by_its_path(whole):
    assert locate_model(str(whole)) == locate_model(whole) == whole


def test_an_embedded_model_is_found_by_its_name(whole, monkeypatch):
    monkeypatch.setitem(model_location.EMBEDDED_MODELS, "embedded", whole)
    assert locate_model("embedded") == whole


def test_an_embedded_model_that_is_not_there_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setitem(model_location.EMBEDDED_MODELS, "embedded", tmp_path / "none")
    with pytest.raises(ModelError, match=r"'embedded' is not installed.*make train-embedded"):
        locate_model("embedded")


def test_the_nearest_known_model_is_named(whole):
    with pytest.raises(ModelError, match=r"Unknown model 'embeded'.*Did you mean 'embedded'"):
        locate_model("embeded")
    with pytest.raises(ModelError, match=f"Did you mean '{whole}'"):
        locate_model(whole.parent / "whol")


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "nowhere/model.pt"])
def test_a_pickled_model_is_refused_by_name(tmp_path, name):
    with pytest.raises(ModelError, match=f"Refused the pickled model .*{name}"):
        locate_model(tmp_path / name)


def test_a_checkpoint_is_found_by_its_path_and_other_files_are_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert locate_model(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match=r"is a file, expected a model folder .*\.safetensors"):
        locate_model(tmp_path / "model.gguf")


def test_a_name_longer_than_a_path_may_be_is_refused():
    with pytest.raises(ModelError, match=r"The model 'xxx.*is no path: File name too long"):
        locate_model("x" * 1_000_000)


# whole


def test_a_whole_folder_passes_and_its_parts_are_told(whole):
    contents = read_and_check_folder(whole)
    assert contents.model_kind == "Stable Diffusion"
    assert contents.parts == {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "scheduler": "DDIMScheduler",
    }


def test_a_folder_of_sdxl_passes(tmp_path):
    contents = read_and_check_folder(xl_folder(tmp_path))
    assert contents.model_kind == "Stable Diffusion XL"
    assert {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"} <= contents.parts.keys()
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ModelError, match=r"has no tokenizer: expected the parts .* tokenizer_2"):
        read_and_check_folder(tmp_path)
    shutil.rmtree(tmp_path / "text_encoder_2")
    with pytest.raises(ModelError, match="has no text_encoder_2"):
        read_and_check_folder(tmp_path)


def test_a_refiner_passes_without_its_first_text_encoder(tmp_path):
    contents = read_and_check_folder(xl_folder(tmp_path, refiner=True))
    assert not {"text_encoder", "tokenizer"} & contents.parts.keys()


def test_a_kandinsky_decoder_passes(tmp_path):
    contents = read_and_check_folder(kandinsky_folder(tmp_path))
    assert contents.model_kind == "Kandinsky 2.2 decoder"
    assert contents.parts["movq"] == "VQModel"


def test_a_kandinsky_prior_passes_alone_and_beside_its_decoder(tmp_path):
    contents = read_and_check_folder(prior_folder(tmp_path / "prior"))
    assert contents.model_kind == "Kandinsky 2.2 prior"
    assert contents.parts["prior"] == "PriorTransformer"

    both = kandinsky_folder(tmp_path / "both")
    index = json.loads((tmp_path / "prior/model_index.json").read_text())
    for part in contents.parts:
        shutil.copytree(tmp_path / "prior" / part, both / f"prior_{part}")
        rewrite_json(both / "model_index.json", **{f"prior_{part}": index[part]})
    rewrite_json(both / "model_index.json", _class_name="KandinskyV22CombinedPipeline")
    assert {f"prior_{part}" for part in contents.parts} <= read_and_check_folder(both).parts.keys()

    rewrite_json(both / "prior_prior/config.json", num_layers=3)
    with pytest.raises(ModelError, match=r"prior_prior do not fit .*transformer_blocks.2"):
        read_and_check_folder(both)
    rewrite_json(both / "prior_prior/config.json", num_layers=2)
    shutil.rmtree(both / "prior_tokenizer")
    with pytest.raises(ModelError, match=r"has no prior_tokenizer: expected .* prior_prior"):
        read_and_check_folder(both)


@pytest.mark.parametrize(
    "pipeline",
    ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"],
)
def test_folders_of_other_pipelines_with_the_same_parts_pass(model, pipeline):
    rewrite_json(model / "model_index.json", _class_name=pipeline)
    read_and_check_folder(model)


def test_folders_of_other_pipelines_are_named(model):
    rewrite_json(model / "model_index.json", _class_name="StableDifusionXLPipeline")
    with pytest.raises(
        ModelError, match=r"'StableDifusionXLPipeline', which .* Did you mean 'Stab"
    ):
        read_and_check_folder(model)


def text_encoders():
    return {
        "T5EncoderModel": T5EncoderModel(
            T5Config(vocab_size=50, d_model=32, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
        ),
        "BertModel": BertModel(
            BertConfig(
                vocab_size=50,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
            )
        ),
        "GPT2Model": GPT2Model(
            GPT2Config(
                vocab_size=50,
                n_embd=32,
                n_layer=1,
                n_head=2,
                n_positions=16,
                bos_token_id=0,
                eos_token_id=0,
            )
        ),
    }


@pytest.mark.parametrize("class_name", ["T5EncoderModel", "BertModel", "GPT2Model"])
def test_text_encoders_of_other_kinds_pass_until_a_tensor_is_missing(model, class_name):
    shutil.rmtree(model / "text_encoder")
    text_encoders()[class_name].save_pretrained(model / "text_encoder")
    rewrite_json(model / "model_index.json", text_encoder=["transformers", class_name])
    rewrite_json(model / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])
    assert read_and_check_folder(model).parts["text_encoder"] == class_name

    weights = model / "text_encoder/model.safetensors"
    tensors = load_file(weights)
    gone = min(tensors)
    del tensors[gone]
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=rf"1 missing \({gone}\)"):
        read_and_check_folder(model)


def test_an_image_encoder_is_checked_where_there_is_one(model):
    rewrite_json(
        model / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]
    )
    assert "image_encoder" not in read_and_check_folder(model).parts
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(model / "image_encoder")
    assert "image_encoder" in read_and_check_folder(model).parts
    rewrite_json(model / "image_encoder/config.json", projection_dim=7)
    with pytest.raises(ModelError, match=r"image_encoder do not fit .*visual_projection"):
        read_and_check_folder(model)


def test_a_folder_with_an_autoencoder_tiny_passes(tmp_path):
    diffusers_pipeline(tiny_sd_components() | {"vae": tiny_small_vae()}).save_pretrained(tmp_path)
    read_and_check_folder(tmp_path)


def test_sharded_weights_pass_until_a_shard_is_missing(tmp_path):
    diffusers_pipeline(tiny_sd_components()).save_pretrained(tmp_path, max_shard_size="200KB")
    shards = sorted((tmp_path / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    read_and_check_folder(tmp_path)
    shards[0].unlink()
    with pytest.raises(ModelError, match=f"names the missing file {shards[0].name}"):
        read_and_check_folder(tmp_path)


def test_a_variant_passes_where_it_is_asked_for(tmp_path):
    diffusers_pipeline(tiny_sd_components()).save_pretrained(tmp_path, variant="fp16")
    read_and_check_folder(tmp_path, variant="fp16")
    with pytest.raises(ModelError, match=r'only .*fp16.safetensors: choose with variant="..."'):
        read_and_check_folder(tmp_path)


def test_names_of_older_library_versions_pass(model):
    """VAEs of Stable Diffusion 1 say "query"; older text encoders have a prefix and a counter."""
    vae = model / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new_name, old_name in old.items():
        tensors = {name.replace(new_name, old_name): t for name, t in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, vae)

    text = model / "text_encoder/model.safetensors"
    tensors = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(text).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, text)
    read_and_check_folder(model)


def test_parts_the_caller_brings_are_not_looked_at(model):
    shutil.rmtree(model / "unet")
    read_and_check_folder(model, given={"unet"})
    with pytest.raises(ModelError, match="has no unet"):
        read_and_check_folder(model)


def test_other_parts_of_a_folder_are_never_looked_at(model):
    rewrite_json(model / "model_index.json", safety_checker=["stable_diffusion", "NoSuchClass"])
    read_and_check_folder(model)


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(model, part):
    shutil.rmtree(model / part)
    with pytest.raises(ModelError, match=f"has no {part}: expected the parts unet, vae"):
        read_and_check_folder(model)


def test_a_part_the_index_leaves_out_is_named(model):
    rewrite_json(model / "model_index.json", text_encoder=[None, None])
    with pytest.raises(ModelError, match="has no text_encoder"):
        read_and_check_folder(model)


def test_what_is_no_pipeline_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has no model_index.json"):
        read_and_check_folder(tmp_path)
    with pytest.raises(ModelError, match="is not a folder"):
        read_and_check_folder(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not readable JSON"), ("[1]", "holds a JSON list"), ("[" * 99999, "not readable")],
)
def test_a_broken_index_is_refused(model, content, message):
    (model / "model_index.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_and_check_folder(model)


@pytest.mark.parametrize(
    "file", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
)
def test_a_broken_config_is_named(model, file):
    (model / file).write_text("{")
    with pytest.raises(ModelError, match=f"{file} is not readable JSON"):
        read_and_check_folder(model)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_config_is_named(model, file):
    (model / file).unlink()
    with pytest.raises(ModelError, match=f"{file} is missing"):
        read_and_check_folder(model)


def test_a_tokenizer_needs_its_words(model):
    (model / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"vocab.json is missing"):
        read_and_check_folder(model)
    (model / "tokenizer/vocab.json").write_text("{}")
    with pytest.raises(ModelError, match=r"merges.txt is missing"):
        read_and_check_folder(model)
    (model / "tokenizer/merges.txt").touch()
    read_and_check_folder(model)


# weights


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(model, keep):
    content = (model / UNET_FILE).read_bytes()
    (model / UNET_FILE).write_bytes(content[:keep])
    with pytest.raises(ModelError, match=f"{UNET_FILE} is not a whole safetensors file"):
        read_and_check_folder(model)


def test_corrupt_weights_are_named(model):
    content = bytearray((model / UNET_FILE).read_bytes())
    content[:8] = b"\xff" * 8
    (model / UNET_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=f"{UNET_FILE} is not a whole safetensors file"):
        read_and_check_folder(model)


def test_tensors_that_do_not_fit_are_named(model):
    tensors = load_file(model / UNET_FILE)
    del tensors["conv_in.bias"]
    tensors["conv_out.bias"] = torch.zeros(7)
    tensors["surplus"] = torch.zeros(1)
    save_file(tensors, model / UNET_FILE)
    with pytest.raises(
        ModelError,
        match=r"1 missing \(conv_in.bias\); 1 unexpected \(surplus\); "
        r"1 misshapen \(conv_out.bias is \[7\] instead of \[4\]\)",
    ):
        read_and_check_folder(model)


def test_only_the_first_of_many_missing_tensors_are_spelled_out(model):
    save_file({"conv_in.bias": torch.zeros(16)}, model / UNET_FILE)
    with pytest.raises(ModelError, match=r"\d\d+ missing \(conv_in.weight, .* and \d\d+ more\)"):
        read_and_check_folder(model)


def test_pickled_weights_are_refused_by_name(model):
    (model / UNET_FILE).unlink()
    (model / "unet/diffusion_pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"Refused the pickled weights .*pytorch_model.bin"):
        read_and_check_folder(model)


def test_missing_weights_are_named(model):
    (model / UNET_FILE).unlink()
    with pytest.raises(ModelError, match=r"No weights .* in .*unet"):
        read_and_check_folder(model)


@pytest.mark.parametrize("name", ["../../elsewhere.safetensors", "/etc/x.safetensors", "x.bin"])
def test_an_index_may_only_name_safetensors_beside_it(model, name):
    (model / UNET_FILE).unlink()
    index = model / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.bias": name}}))
    with pytest.raises(ModelError, match="expected a safetensors file beside it"):
        read_and_check_folder(model)
    index.write_text("{}")
    with pytest.raises(ModelError, match="has no weight_map"):
        read_and_check_folder(model)
