"""A UNet of ours is trained on any text encoder, saved, loaded and asked to draw."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import t2i
from t2i.run_folder import StopSignalHandler
from tests.train.apart import by_two, said
from tests.train.runs import MODEL, RUN, accelerated_for, accelerator_for, train_only, write_run
from tests.train.states import newest
from train.config.load_config import load_run_config
from train.loop import TrainingRun
from train.targets.denoiser import ScratchDenoiserTarget

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


@dataclass(frozen=True)
class Trained:
    """A finished run in the folder `out`, with its target's weights before the first step."""

    kind: str
    out: Path
    target: ScratchDenoiserTarget
    before: dict[str, Tensor]


@pytest.fixture(scope="module", params=ENCODERS)
def trained(request, tmp_path_factory):
    """To be read only."""
    folder = tmp_path_factory.mktemp(request.param)
    config = config_with(folder, request.param)
    with accelerated_for(config) as accelerator:
        training = TrainingRun(config, folder / "out", accelerator)
        weights = training.target.named_parameters()
        before = {name: weight.detach().clone() for name, weight in weights}
        assert training.run(StopSignalHandler())
        training.export()
    return Trained(request.param, folder / "out", training.target, before)


def test_any_text_encoder_is_trained_saved_and_drawn_with(trained):
    losses = [json.loads(line)["loss"] for line in (trained.out / "log.jsonl").open()]
    assert len(losses) == 4
    assert all(loss < 10 for loss in losses)

    pipe = t2i.load(str(trained.out / "model"))
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.text_encoder).__name__ == trained.kind
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    pictures = [
        pipe(prompt, generator=torch.Generator().manual_seed(1), **asked).images
        for prompt in ("a cat", "a blue car to the left of an apple")
    ]
    assert pictures[0].shape == (1, 3, 32, 32)
    assert not torch.equal(*pictures)


def test_every_part_of_the_text_encoder_learns(trained):
    weights = trained.target.collect_trained_parameters_by_name()
    told = [name for name in weights if name.startswith("text_encoder")]
    assert told
    same = [name for name in told if torch.equal(trained.before[name], weights[name].detach())]
    assert not same


def test_what_is_read_of_the_text_encoders_is_trained_and_nothing_else(trained):
    names = trained.before.keys()
    of_encoders = {name for name in names if name.startswith("text_encoder")}
    frozen = of_encoders - trained.target.collect_trained_parameters_by_name().keys()
    if trained.kind != "CLIPTextModel":
        assert not frozen
        return
    assert frozen == {name for name in of_encoders if UNREAD.search(name)}
    assert frozen


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
    one = train_only(config, tmp_path / "one").tensors["weights"]
    two = newest(tmp_path / "two").tensors["weights"]
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
