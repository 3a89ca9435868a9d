"""A UNet of ours is trained on any text encoder, saved, loaded and asked to draw."""

import json

import pytest
import torch

import t2i
from tests.train.runs import MODEL, RUN, write_run
from train.config import load
from train.loop import Training, run
from train.processes import accelerator_of
from train.runfolder import StopRequest

ENCODERS = {
    "T5EncoderModel": "d_model = 16\nd_kv = 8\nd_ff = 32\nnum_layers = 1\nnum_heads = 2",
    "BertModel": "hidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 1\n"
    "num_attention_heads = 2",
    "GPT2Model": "n_embd = 16\nn_layer = 1\nn_head = 2",
    "CLIPTextModel": "hidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 2\n"
    "num_attention_heads = 2\n[text_encoder_2]\nhidden_size = 16\nintermediate_size = 32\n"
    "num_hidden_layers = 2\nnum_attention_heads = 2\nprojection_dim = 12",
}
CLIP = MODEL[MODEL.index("[text_encoder]") : MODEL.index("[tokenizer]")]


def config_with(folder, kind):
    text_encoder = f'[text_encoder]\nkind = "{kind}"\n{ENCODERS[kind]}\n'
    return load(write_run(folder, RUN, MODEL.replace(CLIP, text_encoder)))


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
    training = Training(config, tmp_path / "out", accelerator_of(config))
    before = {name: weight.clone() for name, weight in training.target.weights().items()}
    with StopRequest() as stop:
        training.go(stop)
    told = [name for name in before if name.startswith("text_encoder")]
    still = [
        name for name in told if torch.equal(before[name], training.target.weights()[name].detach())
    ]
    # SDXL reads the first model's layer before the last: what comes after it has nothing to learn.
    after = ("text_encoder.encoder.layers.1", "text_encoder.final_layer_norm")
    after += tuple(name.replace("text_encoder.", "text_encoder.text_model.") for name in after)
    assert told
    assert not [name for name in still if kind != "CLIPTextModel" or not name.startswith(after)]
