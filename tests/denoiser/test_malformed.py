"""Configs that no model has: the file, the key and the value are named, or the model draws."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.build import NewModelConfig, build_fresh_components
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.trial_pass import load_and_check_tokenizer
from t2i.denoiser.schedulers import build_scheduler
from t2i.errors import ArgumentError, ModelError
from tests.denoiser.conftest import rewrite_json
from tests.denoiser.mutants import mutate
from tests.denoiser.tiny_models import kandinsky_folder, prior_folder, xl_folder
from tests.train.runs import MODEL

NAN = float("nan")


@pytest.mark.parametrize(
    ("file", "key", "value", "expected"),
    [
        ("unet/config.json", "sample_size", "x", "a whole number, or a list of such"),
        ("unet/config.json", "sample_size", 0, "at least 1"),
        ("unet/config.json", "attention_head_dim", -8, "at least 1"),
        ("unet/config.json", "attention_head_dim", [4, -8], "at least 1"),
        ("unet/config.json", "block_out_channels", 16, "a list, each a whole number"),
        ("unet/config.json", "block_out_channels", [], "a list, each a whole number"),
        ("unet/config.json", "block_out_channels", ["16", "32"], "a list, each a whole number"),
        ("unet/config.json", "norm_num_groups", True, "a whole number"),
        ("unet/config.json", "norm_eps", NAN, "a finite number"),
        ("unet/config.json", "dropout", 7, "a number from 0 to 1"),
        ("unet/config.json", "use_linear_projection", "yes", "true or false"),
        ("unet/config.json", "act_fn", 5, "a text"),
        ("vae/config.json", "scaling_factor", "x", "a number"),
        ("vae/config.json", "scaling_factor", 0, "more than 0"),
        ("vae/config.json", "scaling_factor", None, "more than 0"),
        ("vae/config.json", "latent_channels", {"a": 4}, "a whole number"),
        ("text_encoder/config.json", "hidden_size", "x", "a whole number"),
        ("text_encoder/config.json", "num_hidden_layers", -1, "at least 1"),
        ("text_encoder/config.json", "model_type", 0.5, "'clip_text_model'"),
        ("text_encoder/config.json", "eos_token_id", None, "a whole number"),
        ("text_encoder/config.json", "eos_token_id", [2], "a whole number"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 0, "at least 1"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**6, "at most 100,000"),
        ("scheduler/scheduler_config.json", "trained_betas", "x", "a list, each a number"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, -2.0], "above 0 and at most 1"),
        ("scheduler/scheduler_config.json", "beta_start", "0.1", "a number"),
        ("scheduler/scheduler_config.json", "beta_end", 1e30, "above 0 and at most 1"),
        ("scheduler/scheduler_config.json", "prediction_type", "x", "one of epsilon, sample, v_pr"),
        ("scheduler/scheduler_config.json", "timestep_spacing", "x", "one of leading, linspace"),
        ("tokenizer/tokenizer_config.json", "model_max_length", "x", "a whole number from 3 on"),
        ("tokenizer/tokenizer_config.json", "model_max_length", 2, "a whole number from 3 on"),
        ("tokenizer/tokenizer_config.json", "model_max_length", NAN, "a whole number from 3 on"),
        ("model_index.json", "force_zeros_for_empty_prompt", "x", "true or false"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_file_key_and_what_is_expected(
    model, file, key, value, expected
):
    rewrite_json(model / file, **{key: value})
    with pytest.raises(ModelError, match=rf"{file} has {key} = .*, expected {expected}"):
        read_and_check_folder(model)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("scheduler/scheduler_config.json", "beta_schedule", "x"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, 0.2]),
        ("unet/config.json", "down_block_types", ["x", "DownBlock2D"]),
        ("unet/config.json", "time_embedding_type", "x"),
        ("unet/config.json", "act_fn", "x"),
        ("text_encoder/config.json", "hidden_act", "x"),
        ("text_encoder/config.json", "quantization_config", {"load_in_4bit": True}),
    ],
)
def test_what_the_library_alone_can_tell_is_named_with_the_file(model, file, key, value):
    rewrite_json(model / file, **{key: value})
    with pytest.raises(ModelError, match=file) as refused:
        read_and_check_folder(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("library", ["evil", 7, ["x"], {}])
def test_a_part_that_is_not_there_may_not_name_code_either(model, library):
    for part in ("image_encoder", "feature_extractor", "tokenizer_2", "anything"):
        rewrite_json(model / "model_index.json", **{part: [library, "x"]})
        with pytest.raises(ModelError, match=f"{part} .* which requires code of its own"):
            read_and_check_folder(model)
        rewrite_json(model / "model_index.json", **{part: [None, None]})


@pytest.mark.parametrize("part", ["safety_checker", "feature_extractor", "image_encoder"])
@pytest.mark.parametrize("entry", [-1, True, "", "ab", {"evil": 0, "x": 1}])
def test_a_part_that_is_not_there_is_named_as_a_class_or_not_at_all(model, part, entry):
    rewrite_json(model / "model_index.json", **{part: entry})
    with pytest.raises(ModelError, match=f"model_index.json has {part} = .*a library and a class"):
        read_and_check_folder(model)


def test_parts_that_do_not_fit_one_another_are_refused(model, tmp_path):
    rewrite_json(model / "unet/config.json", out_channels=6)
    with pytest.raises(ModelError, match="unet"):
        read_and_check_folder(model)
    toml = tmp_path / "model.toml"
    toml.write_text(MODEL.replace("[8, 8, 8, 8]", "[8, 16, 16, 32]"))
    with pytest.raises(ArgumentError, match=r"config's \[vae\] describes a part that cannot run"):
        build_fresh_components(NewModelConfig.load_toml(toml))
    toml.write_text(MODEL.replace("sample_size", "in_channels = 3\nsample_size"))
    build_fresh_components(NewModelConfig.load_toml(toml))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attention_head_dim = -8", r"\[unet\] has attention_head_dim = -8, expected at least 1"),
        ('sample_size = "x"', r"\[unet\] has sample_size = 'x', expected a whole number"),
        ("out_channels = 3", r"\[unet\] has out_channels = 3, and .*\[vae\] latents of 4 channels"),
        ("cross_attention_dim = [16, 7]", r"\[unet\] describes a part that cannot run"),
    ],
)
def test_a_model_toml_that_cannot_run_is_refused_when_it_is_built(tmp_path, line, message):
    toml = tmp_path / "model.toml"
    key = line.split(" =")[0]
    kept = [one for one in MODEL.splitlines() if not one.startswith(f"{key} =")]
    toml.write_text("\n".join(kept).replace("[unet]", f"[unet]\n{line}"))
    with pytest.raises(ArgumentError, match=message):
        build_fresh_components(NewModelConfig.load_toml(toml))


def test_building_draws_the_same_weights_as_without_the_trial(tmp_path):
    toml = tmp_path / "model.toml"
    toml.write_text(MODEL)
    torch.manual_seed(4)
    built = build_fresh_components(NewModelConfig.load_toml(toml))
    after = torch.rand(3)
    torch.manual_seed(4)
    again = build_fresh_components(NewModelConfig.load_toml(toml))
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(built.unet.conv_in.weight, again.unet.conv_in.weight)


def test_a_tokenizer_that_reads_nothing_is_refused_by_its_folder(model):
    tree = json.loads((model / "tokenizer/tokenizer.json").read_text())
    (model / "tokenizer/tokenizer.json").write_text(json.dumps(tree | {"model": {"type": "x"}}))
    with pytest.raises(ModelError, match="tokenizer has no CLIPTokenizer that reads a text"):
        load_and_check_tokenizer(model / "tokenizer", "CLIPTokenizer")


def test_words_without_embeddings_are_refused(model):
    rewrite_json(model / "tokenizer/tokenizer_config.json", pad_token="a new one")
    with pytest.raises(ModelError, match=r"tokens up to number \d+, but .* embeddings for"):
        TextToImagePipeline.from_pretrained(model)


def test_options_that_a_library_refuses_are_a_model_error(whole):
    with pytest.raises(ModelError, match="cannot be loaded, though its parts are whole"):
        TextToImagePipeline.from_pretrained(whole, device_map="nowhere")


def test_a_sampler_on_a_malformed_noise_schedule_is_an_argument_error():
    with pytest.raises(ArgumentError, match="'ddim' cannot be built on this model's noise sched"):
        build_scheduler("ddim", {"beta_schedule": "x"})


@pytest.mark.parametrize("make", [xl_folder, kandinsky_folder, prior_folder])
def test_every_kind_of_model_passes_the_trial(tmp_path, make):
    read_and_check_folder(make(tmp_path))


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 520))]
)
def test_a_folder_with_any_value_changed_draws_or_is_refused(model: Path, seed):
    done = mutate(model, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (refusal := refused(model)) is None:
            pipe = TextToImagePipeline.from_pretrained(model)
            pipe.set_progress_bar_config(disable=True)
            pipe("a red cat", num_inference_steps=1)
            return
    assert str(model) in refusal, done
    assert "\n" not in refusal, done


def refused(folder: Path) -> str | None:
    try:
        TextToImagePipeline.from_pretrained(folder)
    except ModelError as error:
        return str(error)
    return None
