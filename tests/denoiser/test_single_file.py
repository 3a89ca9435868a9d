"""Single-file checkpoints: told apart by their headers, and loaded to the very same weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.single_file import ASSETS, load_clip_tokenizer, load_single_file
from t2i.denoiser.loading.single_file_checkpoint import identify_checkpoint
from t2i.denoiser.loading.weight_checks import read_json_object
from t2i.errors import ArgumentError, ModelError
from tests.denoiser.original_layout import write_sd1, write_sd2, write_sdxl
from tests.denoiser.tiny_models import xl_components, xl_folder
from tests.tiny import tiny_sd_components, tiny_sd_folder, tiny_unet

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("models") / "sd")


def assert_same(made, expected):
    ours, theirs = made.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


# loaded


def test_a_checkpoint_of_stable_diffusion_1_gives_back_its_parts(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    made = load_single_file(path, config=folder)
    assert made.keys() == parts.keys()
    for name in ("unet", "vae", "text_encoder"):
        assert_same(made[name], parts[name])
        assert not made[name].training
    assert made["tokenizer"]("a red cat").input_ids == parts["tokenizer"]("a red cat").input_ids
    assert type(made["scheduler"]) is type(parts["scheduler"])
    assert made["scheduler"].config["prediction_type"] == "epsilon"

    half = load_single_file(path, config=folder, dtype=torch.float16, vae=parts["vae"])
    assert half["unet"].dtype == half["text_encoder"].dtype == torch.float16
    assert half["vae"] is parts["vae"]


def test_text_encoders_named_without_their_model_load_too(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    tensors = load_file(path)
    save_file({name.replace(".text_model.", "."): t for name, t in tensors.items()}, path)
    made = load_single_file(path, config=folder)
    assert_same(made["text_encoder"], parts["text_encoder"])


def test_a_checkpoint_of_stable_diffusion_2_gives_back_its_parts(tmp_path, parts, folder):
    path = write_sd2(tmp_path / "model.safetensors", parts)
    made = load_single_file(path, config=folder)
    for name in ("unet", "vae", "text_encoder"):
        assert_same(made[name], parts[name])
    assert made["scheduler"].config["prediction_type"] == "v_prediction"
    plain = load_single_file(path, config=folder, prediction_type="epsilon")
    assert plain["scheduler"].config["prediction_type"] == "epsilon"


def test_an_inpainting_checkpoint_keeps_its_nine_channels(tmp_path, parts, folder):
    inpainting = parts | {"unet": tiny_unet(in_channels=9)}
    path = write_sd1(tmp_path / "model.safetensors", inpainting)
    made = load_single_file(path, config=folder)
    assert made["unet"].config["in_channels"] == 9
    assert_same(made["unet"], inpainting["unet"])


@pytest.mark.parametrize("refiner", [False, True])
def test_a_checkpoint_of_sdxl_gives_back_its_parts(tmp_path, refiner):
    parts = xl_components(refiner)
    path = write_sdxl(tmp_path / "model.safetensors", parts)
    made = load_single_file(path, config=xl_folder(tmp_path / "folder", refiner))
    assert made.keys() == {name for name, part in parts.items() if part is not None}
    for name in made.keys() - {"tokenizer", "tokenizer_2", "scheduler"}:
        assert_same(made[name], parts[name])


def test_marks_of_v_prediction_and_zero_snr_are_heeded(tmp_path):
    parts = xl_components()
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = write_sdxl(tmp_path / "model.safetensors", parts, marks)
    given = {name: part for name, part in parts.items() if name != "scheduler"}
    scheduler = load_single_file(path, **given)["scheduler"]
    assert scheduler.config["prediction_type"] == "v_prediction"
    assert scheduler.config["rescale_betas_zero_snr"]


def test_what_the_header_says_of_its_prediction_is_heeded(tmp_path, parts):
    said = {"modelspec.prediction_type": "v"}
    path = write_sd1(tmp_path / "sd1.safetensors", parts, said)
    assert identify_checkpoint(path).prediction_type == "v_prediction"
    said = {"modelspec.architecture": "stable-diffusion-v2-512"}
    path = write_sd2(tmp_path / "sd2.safetensors", parts, said)
    assert identify_checkpoint(path).prediction_type == "epsilon"


# the configs and the words that come with the package


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "millions"),
    [
        ("sd1/unet", 859.520964),
        ("sd1/vae", 83.653863),
        ("sd1/text_encoder", 123.060480),
        ("sd2/unet", 865.910724),
        ("sd2/text_encoder", 340.387840),
        ("sdxl/unet", 2567.463684),
        ("sdxl/text_encoder_2", 694.659840),
    ],
)
def test_the_configs_describe_models_of_the_published_sizes(place, millions):
    config = read_json_object(ASSETS / "single_file" / place / "config.json")
    class_name = config.get("_class_name") or config["architectures"][0]
    model = build_meta_model(class_name, config)
    assert sum(weight.numel() for weight in model.parameters()) == round(millions * 1e6)


def test_without_a_network_the_words_must_be_given(tmp_path):
    with pytest.raises(ModelError, match=r"carries no vocabulary.*give config=.*tokenizer="):
        load_clip_tokenizer(tmp_path / "none", "!")


# refused


def test_a_checkpoint_of_other_sizes_says_to_give_a_config(tmp_path, parts):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    with pytest.raises(ModelError, match=r"The unet in .* missing .*model folder .* config=\.\.\."):
        load_single_file(path)


def test_a_checkpoint_without_its_vae_asks_for_one(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    tensors = {n: t for n, t in load_file(path).items() if not n.startswith("first_stage")}
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"has no vae: give one, with vae=\.\.\."):
        load_single_file(path, config=folder)
    assert load_single_file(path, config=folder, vae=parts["vae"])["vae"] is parts["vae"]


def test_a_tensor_that_is_missing_is_named(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    tensors = load_file(path)
    del tensors["first_stage_model.quant_conv.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"vae in .* does not fit .*1 missing \(quant_conv.bias\)"):
        load_single_file(path, config=folder)


def test_arguments_that_are_none_are_refused(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts)
    with pytest.raises(ArgumentError, match=r"has no part 'vea'. Did you mean 'vae'"):
        load_single_file(path, config=folder, vea=None)
    with pytest.raises(ArgumentError, match="prediction_type='v', expected 'epsilon' or"):
        load_single_file(path, config=folder, prediction_type="v")
    with pytest.raises(ModelError, match=r"config.json is missing"):
        load_single_file(path, config=tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_mid_block.lora_down.weight"], "is a LoRA.*pipe.load_lora_weights"),
        (["unet.mid_block.lora_A.weight"], "is a LoRA"),
        (["encoder.down.0.block.0.conv1.weight"], r"is an autoencoder .*vae=\.\.\."),
        (["emb_params"], "is an embedding .*pipe.load_textual_inversion"),
        (["<my-cat>"], "is an embedding"),
        (["ip_adapter.1.to_k_ip.weight"], "is an IP-Adapter"),
        (["control_model.time_embed.0.weight"], "is a ControlNet"),
        (["double_blocks.0.img_attn.qkv.weight"], "is a checkpoint of a transformer such as Flux"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one part of a model in diffusers' format"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "is a text encoder alone"),
        (["a", "b", "c", "d", "e"], "holds no model known here: expected .*input_blocks.0.0"),
    ],
)
def test_files_that_are_no_model_say_what_they_are(tmp_path, names, message):
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(2, 768) for name in names}, path)
    with pytest.raises(ModelError, match=message):
        identify_checkpoint(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "UNet of an unknown family: .* width none, expected 768, 1024, 1280, 2048"),
        ({"edm_mean": torch.zeros(1)}, "is a checkpoint of Playground 2.5"),
    ],
)
def test_unets_of_unknown_families_are_refused(tmp_path, tensors, message):
    path = tmp_path / "file.safetensors"
    save_file({CONV_IN: torch.zeros(8, 4, 3, 3)} | tensors, path)
    with pytest.raises(ModelError, match=message):
        identify_checkpoint(path)


def test_a_unet_that_reads_something_else_is_refused(tmp_path, parts, folder):
    path = write_sd1(tmp_path / "model.safetensors", parts | {"unet": tiny_unet(in_channels=8)})
    with pytest.raises(ModelError, match="reads 8 channels, expected 4, or 9 for inpainting"):
        load_single_file(path, config=folder)


def test_a_broken_checkpoint_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        identify_checkpoint(path)
