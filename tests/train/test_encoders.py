"""A UNet of ours is trained on any text encoder, saved, loaded and asked to draw."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import t2i
from t2i.run_folder import StopRequest
from tests.train.apart import by_two, said
from tests.train.runs import MODEL, RUN, accelerator_for, write_run
from tests.train.test_loop import newest
from train.config.load_config import load_run_config
from train.loop import TrainingRun, run

pytestmark = pytest.mark.usefixtures("_own_accelerator")

ENCODERS = {
    "T5EncoderModel": "d_model = 16\nd_kv = 8\nd_ff = 32\nnum_layers = 1\nnum_heads = 2",
    "BertModel": "hidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 1\n"
    "num_attention_heads = 2",
    "GPT2Model": "n_embd = 16\nn_layer = 1\nn_head = 2",
    "CLIPTextModel": "hidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 2\n"
    "num_attention_heads = 2\n[text_encoder_2]\nhidden_size = 16\nintermediate_size = 32\n"
    "num_hidden_layers = 2\nnum_attention_heads = 2\nprojection_dim = 12",
}
UNREAD = re.compile(r"^text_encoder\.(text_model\.)?(encoder\.layers\.1|final_layer_norm)\.")
"""SDXL reads the first model's layer before the last: what comes after it has nothing to learn."""
CLIP = MODEL[MODEL.index("[text_encoder]") : MODEL.index("[tokenizer]")]


def config_with(folder, kind):
    text_encoder = f'[text_encoder]\nkind = "{kind}"\n{ENCODERS[kind]}\n'
    return load_run_config(write_run(folder, RUN, MODEL.replace(CLIP, text_encoder)))


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_text_encoder_is_trained_saved_and_drawn_with(kind, tmp_path):
    config = config_with(tmp_path, kind)
    assert run(config, tmp_path / "out")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out/log.jsonl").open()]
    assert len(losses) == 6
    assert all(loss < 10 for loss in losses)

    pipe = t2i.load(str(tmp_path / "out/model"))
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.text_encoder).__name__ == kind
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    pictures = [
        pipe(prompt, generator=torch.Generator().manual_seed(1), **asked).images
        for prompt in ("a cat", "a blue car to the left of an apple")
    ]
    assert pictures[0].shape == (1, 3, 32, 32)
    assert not torch.equal(*pictures)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_part_of_the_text_encoder_learns(kind, tmp_path):
    config = config_with(tmp_path, kind)
    training = TrainingRun(config, tmp_path / "out", accelerator_for(config))
    before = {name: weight.clone() for name, weight in training.target.trained_parameters().items()}
    with StopRequest() as stop:
        training.run(stop)
    told = [name for name in before if name.startswith("text_encoder")]
    assert told
    weights = training.target.trained_parameters()
    assert not [name for name in told if torch.equal(before[name], weights[name].detach())]


def test_what_sdxl_does_not_read_of_its_first_encoder_is_not_trained(tmp_path):
    config = config_with(tmp_path, "CLIPTextModel")
    target = TrainingRun(config, tmp_path / "out", accelerator_for(config)).target
    trained = target.trained_parameters()
    frozen = {name for name, _ in target.named_parameters()} - trained.keys()
    of_encoders = {name for name in frozen if name.startswith("text_encoder")}
    assert of_encoders
    assert all(UNREAD.search(name) for name in of_encoders), of_encoders
    assert not [name for name in trained if UNREAD.search(name)]


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "CLIPTextModel"])
def test_of_a_single_encoder_every_weight_is_trained(kind, tmp_path):
    config = config_with(tmp_path, kind)
    target = TrainingRun(config, tmp_path / "out", accelerator_for(config)).target
    every = {name for name, _ in target.text_encoder.named_parameters(prefix="text_encoder")}
    assert every <= target.trained_parameters().keys()


@pytest.mark.slow
def test_two_processes_train_two_clips(tmp_path):
    config = config_with(tmp_path, "CLIPTextModel")
    begun = TrainingRun(config, tmp_path / "begun", accelerator_for(config)).target
    first = {
        name: weight.detach().half()
        for name, weight in begun.text_encoder.state_dict().items()
        if UNREAD.search(f"text_encoder.{name}")
    }
    assert by_two(tmp_path / "tiny.toml", tmp_path / "two") == [0, 0], said(tmp_path / "two")
    assert run(config, tmp_path / "one")
    one, two = (newest(tmp_path / name).tensors["weights"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5
    saved = load_file(tmp_path / "two/model/text_encoder/model.safetensors")
    assert first
    for name, weight in first.items():
        # Files keep the names of CLIPTextModel as everybody has them.
        (found,) = (
            saved[other] for other in saved if other.endswith(name.split("text_model.")[-1])
        )
        assert torch.equal(found, weight), name
