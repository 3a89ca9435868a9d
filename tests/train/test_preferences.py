"""Of two pictures of one prompt the better becomes likelier, and the base model is the measure."""

import json
import math
import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.errors import ArgumentError, DataError, TrainingError
from tests.train.finetunes import finetune_toml, moved, target_of
from tests.train.runs import train_only
from train.config.load_config import load_run_config
from train.loop import run_training
from train.objective.preferences import compute_preference_loss
from train.targets.reference_model import ReferenceModel

BETA = "target.preference_beta=50"
STILL = ("target.caption_dropout=0", "data.flip=false", "data.crop=center", "ema.decay=0")
KINDS = [("lora",), ("full",), ("text encoder",), ("pivotal",)]


def pairs(folder, number=4, lost=()):
    """Gradients, and beside each, as the worse one, noise."""
    rng = np.random.default_rng(0)
    for side in ("win", "lose"):
        (folder / side).mkdir(parents=True)
    for one in range(number):
        better = np.broadcast_to(np.linspace(0, 60 * one + 60, 32)[:, None, None], (32, 32, 3))
        worse = rng.integers(0, 256, (32, 32, 3))
        for side, pixels in (("win", better), ("lose", worse)):
            if (side, one) not in lost:
                Image.fromarray(pixels.astype(np.uint8)).save(folder / side / f"{one}.png")
        (folder / "win" / f"{one}.txt").write_text(f"a <mug> {'red ' * one}".strip())
    return folder


def preferring(tmp_path, base, *settings, parts=("lora",), folder=None):
    folder = folder or pairs(tmp_path / "pairs")
    path = finetune_toml(tmp_path, base, *parts)
    subset = f'subsets = [{{folder = "{folder / "win"}", losers = "{folder / "lose"}"}}]'
    path.write_text(re.sub("folder = .*", subset, path.read_text(), count=1))
    return load_run_config(path, (*STILL, *settings))


# The formula


def test_the_loss_is_that_of_the_paper():
    better_B, worse_B = torch.tensor([0.0, -0.02, 0.02]), torch.tensor([0.0, 0.02, -0.02])
    loss_B = compute_preference_loss(better_B, worse_B, 100)
    expected = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]
    torch.testing.assert_close(loss_B, torch.tensor(expected))


def test_before_the_first_step_every_pair_costs_the_same(tmp_path, base):
    target, batch = target_of(preferring(tmp_path, base, BETA))
    torch.testing.assert_close(target(batch), torch.full((2,), math.log(2)))


def test_both_of_a_pair_stand_under_the_same_noise(tmp_path, base):
    target, batch = target_of(preferring(tmp_path, base, BETA))
    seen = []
    target._denoise = lambda noised, told: seen.append(noised) or noised.noisy_BCHW
    target(batch)
    better, worse = seen[:2]
    assert torch.equal(better.level.timestep_B, worse.level.timestep_B)
    apart = better.noisy_BCHW - worse.noisy_BCHW
    pixels = replace(batch, pixels_BCHW=batch.losers_BCHW)
    latents = target._latents(batch) - target._latents(pixels)
    torch.testing.assert_close(apart, better.level.alpha_B.view(-1, 1, 1, 1) * latents)


@pytest.mark.parametrize("parts", KINDS, ids=str)
def test_the_reference_is_the_base_model_whatever_is_trained(tmp_path, base, parts):
    config = preferring(tmp_path, base, BETA, parts=parts)
    target, batch = target_of(config)
    untouched = deepcopy(target)
    moved(target)
    told = untouched._build_conditioning(batch, batch.captions)
    noised = untouched._add_noise(batch)
    with torch.no_grad():
        expected = untouched._denoise(noised, told)
        assert not torch.equal(
            target._denoise(noised, target._build_conditioning(batch, batch.captions)), expected
        )
    before = {
        name: weight.detach().clone()
        for name, weight in target.collect_trained_parameters_by_name().items()
    }
    with target._reference.using_base_weights():
        found = target._denoise(noised, target._build_conditioning(batch, batch.captions))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert all(
        torch.equal(weight, before[name])
        for name, weight in target.collect_trained_parameters_by_name().items()
    )


@pytest.mark.parametrize(
    ("parts", "lower"),
    [
        pytest.param(("lora",), True, id="lora-bf16"),
        pytest.param(("full",), False, id="full-float32"),
        pytest.param(("lora",), False, id="lora-float32", marks=pytest.mark.long),
        pytest.param(("full",), True, id="full-bf16", marks=pytest.mark.long),
    ],
)
def test_the_gradient_is_that_of_two_models_side_by_side(tmp_path, base, parts, lower):
    target, batch = target_of(preferring(tmp_path, base, BETA, parts=parts))
    with torch.no_grad():
        base_model = deepcopy(target)
    moved(target)
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        target(batch).mean().backward()
    mine = {
        name: weight.grad.clone()
        for name, weight in target.collect_trained_parameters_by_name().items()
    }
    target.zero_grad()

    worse = replace(batch, pixels_BCHW=batch.losers_BCHW)
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        errors = []
        for model in (target, base_model):
            with torch.set_grad_enabled(model is target):
                told = model._build_conditioning(batch, batch.captions)
                errors += [
                    model._denoising_errors(batch, model._add_noise(one), told)
                    for one in (batch, worse)
                ]
        better, bad, base_better, base_bad = errors
        compute_preference_loss(better - base_better, bad - base_bad, 50).mean().backward()
    for name, weight in target.collect_trained_parameters_by_name().items():
        torch.testing.assert_close(mine[name], weight.grad, rtol=1e-4, atol=1e-7)
    assert any(gradient.abs().max() > 1e-6 for gradient in mine.values())


# A run


def test_the_better_ones_become_likelier_than_the_worse_ones(tmp_path, base):
    config = preferring(tmp_path, base, "target.preference_beta=500", parts=("full",))
    target, batch = target_of(config)
    untouched = deepcopy(target)
    optimizer = torch.optim.Adam(target.collect_trained_parameters_by_name().values(), lr=2e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss_B = target(batch)
        loss_B.mean().backward()
        optimizer.step()
    assert (loss_B < 0.5 * math.log(2)).all()
    told = target._build_conditioning(batch, batch.captions)
    worse = replace(batch, pixels_BCHW=batch.losers_BCHW)
    with torch.no_grad():
        gained = [
            untouched._denoising_errors(batch, untouched._add_noise(one), told)
            - target._denoising_errors(batch, target._add_noise(one), told)
            for one in (batch, worse)
        ]
    assert (gained[0] > gained[1]).all()


def test_cached_latents_are_those_of_both_pictures(tmp_path, base):
    losses = {}
    for cached in ("true", "false"):
        settings = (BETA, f"cache.latents={cached}", "train.steps=3")
        train_only(preferring(tmp_path / cached, base, *settings), tmp_path / f"out-{cached}")
        log = (tmp_path / f"out-{cached}/log.jsonl").read_text()
        losses[cached] = re.findall(r'"loss": ([\d.e-]+)', log)
    assert [float(one) for one in losses["true"]] == pytest.approx(
        [float(one) for one in losses["false"]], rel=1e-5
    )


def test_a_file_of_pairs_trains_as_two_folders_do(tmp_path, base):
    folder = pairs(tmp_path / "pairs")
    rows = [
        {"caption": (folder / f"win/{n}.txt").read_text(), "win": f"win/{n}.png"}
        | {"lose": f"lose/{n}.png"}
        for n in range(4)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = (BETA, "train.steps=2")
    by_folders = preferring(tmp_path / "a", base, *settings, folder=folder)
    by_file = finetune_toml(tmp_path / "b", base, "lora")
    subset = 'subsets = [{pairs = "../pairs/pairs.jsonl"}]'
    by_file.write_text(re.sub("folder = .*", subset, by_file.read_text(), count=1))
    train_only(by_folders, tmp_path / "out-a")
    train_only(load_run_config(by_file, (*STILL, *settings)), tmp_path / "out-b")
    losses = [
        re.findall(r'"loss": ([\d.e-]+)', (tmp_path / out / "log.jsonl").read_text())
        for out in ("out-a", "out-b")
    ]
    assert losses[0]
    assert losses[0] == losses[1]


# Bad input


def test_a_picture_without_its_worse_one_is_named(tmp_path, base):
    folder = pairs(tmp_path / "pairs", lost={("lose", 2)})
    config = preferring(tmp_path, base, BETA, folder=folder)
    with pytest.raises(DataError, match=r"win/2.png: has no worse one of its name in .*lose"):
        run_training(config, tmp_path / "out")


def test_a_worse_one_of_another_shape_is_named(tmp_path, base):
    folder = pairs(tmp_path / "pairs")
    Image.new("RGB", (32, 48)).save(folder / "lose" / "1.png")
    config = preferring(tmp_path, base, BETA, folder=folder)
    with pytest.raises(DataError, match=r"the worse one of its pair.* is 32x48, of other propor"):
        run_training(config, tmp_path / "out")


def test_pairs_and_beta_go_together(tmp_path, base):
    config = preferring(tmp_path / "a", base)
    with pytest.raises(ArgumentError, match=r"only a fine-tune with target.preference_beta learns"):
        run_training(config, tmp_path / "out")
    config = load_run_config(finetune_toml(tmp_path / "b", base, "lora"), (BETA,))
    with pytest.raises(ArgumentError, match="6 of 6 pictures are alone: name the folder of the"):
        run_training(config, tmp_path / "out2")


def test_a_preference_with_attention_supervision_is_refused(tmp_path, base):
    with pytest.raises(ArgumentError, match="pairs, which have no masks"):
        preferring(tmp_path, base, BETA, "target.attention_weight=0.1")


def test_split_weights_have_no_reference(tmp_path):
    layer = torch.nn.Linear(4, 4)
    reference = ReferenceModel({"unet": layer}, [layer.weight])
    layer.weight.data = layer.weight.data[:2]
    with (
        pytest.raises(TrainingError, match="weights are split over the processes"),
        reference.using_base_weights(),
    ):
        pass
