"""LoRAs of ControlNets that are trained: what is trained, what is written, what is refused."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import Tensor

import t2i
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from tests.train.control_runs import batch_of, run_of, target_of
from tests.train.runs import train_only
from tests.train.states import assert_equal_bit_for_bit, newest
from train.batches.micro_batch import MicroBatch
from train.loop import run_training
from train.targets.control_network import ControlTarget
from train.targets.denoising import NoisyLatentsWithTarget
from train.targets.parts.control_lora import NEW_LAYERS

RANK = "target.lora.rank=2"


@torch.no_grad()
def test_the_lora_and_the_new_layers_alone_are_trained(base: Path, tmp_path: Path) -> None:
    config = run_of(tmp_path, base, "controlnet", RANK)
    target, batch = target_of(config).eval(), batch_of(config, tmp_path / "out")
    trained = target.collect_trained_parameters_by_name()
    new = [name for name in trained if name.split(".")[1] in NEW_LAYERS]
    adapted = [name for name in trained if ".lora_" in name]
    assert len(new) + len(adapted) == len(trained)
    assert len({name.split(".")[1] for name in new}) == len(NEW_LAYERS)
    assert all(".attn" in name for name in adapted)
    # It begins where a ControlNet begins: it changes nothing.
    noised = target._add_noise(batch)
    told = target._build_conditioning(batch, batch.captions)
    given = noised.noisy_BCHW, noised.level.timestep_B
    assert torch.equal(target.predict(*given, told), sd.run_unet(target.unet, *given, told))


@pytest.mark.parametrize("dora", ["false", "true"])
def test_the_result_is_a_controlnet_that_computes_what_was_trained(
    dora: str, base: Path, tmp_path: Path
) -> None:
    config = run_of(tmp_path, base, "controlnet", RANK, f"target.lora.dora={dora}")
    assert run_training(config, tmp_path / "out")
    written = ControlNetModel.from_pretrained(tmp_path / "out/model")
    trained = newest(tmp_path / "out").tensors["average"]
    target = target_of(config).eval()
    with torch.no_grad():
        for name, weight in target.collect_trained_parameters_by_name().items():
            assert not torch.equal(weight, trained[name])
            weight.copy_(trained[name])
        generator = torch.Generator().manual_seed(0)
        call = (torch.randn(2, 4, 10, 10, generator=generator), torch.tensor([3, 700]))
        text = torch.randn(2, 5, target.unet.config["cross_attention_dim"], generator=generator)
        hints = torch.rand(2, 3, 40, 40, generator=generator)
        theirs, ours = (
            net(*call, text, controlnet_cond=hints, return_dict=False)
            for net in (written, target.network)
        )
    assert torch.allclose(theirs[1], ours[1], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(theirs[0], ours[0], strict=True))
    # What has no LoRA is the base's.
    unet = target.unet.state_dict()
    own = written.state_dict()
    frozen = [name for name in own if name in unet and not torch.equal(own[name], unet[name])]
    assert frozen
    assert all(".attn" in name and ".to_" in name for name in frozen)
    pipe = t2i.load(base)
    control = Control(
        load_control_network(tmp_path / "out/model", pipe.unet), Image.new("RGB", (32, 32), "red")
    )
    assert pipe("red apple", num_inference_steps=1, controls=[control]).images


def test_a_stopped_run_goes_on_bit_for_bit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_of(tmp_path, base, "controlnet", RANK)
    whole = train_only(config, tmp_path / "whole")
    compute = ControlTarget.compute_losses

    def crash(self: ControlTarget, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        if batch.step == 4:
            raise RuntimeError("crash")
        return compute(self, batch, noised)

    with monkeypatch.context() as patch:
        patch.setattr(ControlTarget, "compute_losses", crash)
        with pytest.raises(RuntimeError, match="crash"):
            run_training(config, tmp_path / "parts")
    assert_equal_bit_for_bit(train_only(config, tmp_path / "parts"), whole)


def test_layers_that_cannot_have_one_are_refused(base: Path, tmp_path: Path) -> None:
    for pattern, words in (
        ("attn3", r"target\.lora\.modules = 'attn3' matches no module"),
        ("norm1", r"target\.lora\.modules = \['norm1'\] matches no linear or convolutional layer"),
    ):
        config = run_of(tmp_path, base, "controlnet", f'target.lora.modules=["{pattern}"]')
        with pytest.raises(ArgumentError, match=words):
            target_of(config)
