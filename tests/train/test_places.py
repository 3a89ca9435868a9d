"""A UNet that is asked where in the picture it is."""

import json

import torch
from safetensors.torch import load_file
from torch import nn

from t2i.scenes.scenes import SceneDataset
from tests.train.runs import assert_goes_on_bit_for_bit, tiny_run
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.loop import run_training
from train.objective.mid_block_position_loss import MidBlockPositionLoss, build_row_column_grid
from train.setup.assembly import assemble_target
from train.targets.denoiser import ScratchDenoiserTarget

WEIGHT = "target.place_weight=0.5"


def denoiser(tmp_path, *settings):
    config = tiny_run(tmp_path, *settings)
    target = assemble_target(config)[0]
    assert isinstance(target, ScratchDenoiserTarget)
    return target, next(
        iterate_micro_batches_of_steps(
            SceneDataset(config.data), BatchOrder([range(10)], 4, 1), ProcessShare(), range(1)
        )
    )


def test_rows_and_columns_go_from_minus_one_to_one():
    places_2HW = build_row_column_grid(3, 2)
    assert places_2HW[0].tolist() == [[-1, -1], [0, 0], [1, 1]]
    assert places_2HW[1].tolist() == [[-1, 1]] * 3


def test_features_that_are_their_places_cost_nothing(tmp_path):
    target, _ = denoiser(tmp_path)
    places = MidBlockPositionLoss(target.unet)
    channels = places.reading.in_channels
    with torch.no_grad():
        places.reading.weight.copy_(torch.eye(2, channels)[..., None, None])
        places.reading.bias.zero_()
    features_BCHW = torch.zeros(1, channels, 4, 4)
    features_BCHW[:, :2] = build_row_column_grid(4, 4)
    places._keep(nn.Identity(), (), features_BCHW)
    assert places.compute_losses().tolist() == [0.0]


def test_the_weight_multiplies_what_the_reading_gets_wrong(tmp_path):
    losses = {}
    for weight in (0.5, 1.0):
        torch.manual_seed(0)
        target, batch = denoiser(tmp_path, f"target.place_weight={weight}")
        losses[weight] = target(batch)
    plain, _ = denoiser(tmp_path)
    plain.load_state_dict(target.state_dict(), strict=False)
    without_B = plain(batch)
    assert (losses[1.0] > without_B).all()
    torch.testing.assert_close(losses[1.0] - without_B, 2 * (losses[0.5] - without_B))


def test_the_middle_learns_its_places_and_the_reading_is_not_exported(tmp_path):
    assert run_training(tiny_run(tmp_path, WEIGHT, "train.steps=16"), tmp_path / "out")
    lines = (tmp_path / "out/log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-5:]) < sum(losses[:5])
    exported = load_file(tmp_path / "out/model/unet/diffusion_pytorch_model.safetensors")
    assert not [name for name in exported if "reading" in name or "places" in name]


def test_a_run_that_reads_places_goes_on_bit_for_bit(tmp_path):
    assert_goes_on_bit_for_bit(tmp_path, WEIGHT)
