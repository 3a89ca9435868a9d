"""An autoencoder that learns from crops, and weights laid out channels last."""

import json

import pytest
import torch

from t2i.errors import ArgumentError
from t2i.scenes.scenes import SceneDataset
from tests.train.runs import assert_goes_on_bit_for_bit, tiny_run, train_only
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.loop import run_training
from train.setup.assembly import assemble_target
from train.targets.autoencoder import AutoencoderTarget

CROP = ("target.kind=autoencoder", "target.crop=32", "data.size=64")


def test_crops_are_pieces_of_the_pictures_and_differ_by_slot(tmp_path):
    config = tiny_run(tmp_path, *CROP)
    target = assemble_target(config)[0]
    assert isinstance(target, AutoencoderTarget)
    batch = next(
        iterate_micro_batches_of_steps(
            SceneDataset(config.data), BatchOrder([range(10)], 4, 1), ProcessShare(), range(1)
        )
    )
    crops_BCHW = target._cropped(batch)
    assert crops_BCHW.shape == (4, 3, 32, 32)
    assert torch.equal(crops_BCHW, target._cropped(batch))
    places = []
    for crop_CHW, picture_CHW in zip(crops_BCHW, batch.pixels_BCHW, strict=True):
        windows = picture_CHW.unfold(1, 32, 1).unfold(2, 32, 1)  # (3, top, left, 32, 32)
        same = (windows == crop_CHW[:, None, None]).all(dim=(0, 3, 4))
        assert same.any()
        places.append(same.nonzero()[0].tolist())
    assert len({tuple(place) for place in places}) > 1


@pytest.mark.parametrize("crop", ["36", "128"])
def test_a_crop_that_cannot_be_cut_is_refused(tmp_path, crop):
    with pytest.raises(ArgumentError, match=rf"target.crop = {crop}: expected a multiple of 8"):
        run_training(tiny_run(tmp_path, *CROP, f"target.crop={crop}"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["autoencoder", "denoiser"])
def test_channels_last_is_the_same_model(tmp_path, kind):
    losses = {}
    for layout in ("true", "false"):
        asked = (f"target.kind={kind}", f"train.channels_last={layout}")
        train_only(tiny_run(tmp_path, *asked), tmp_path / layout)
        lines = (tmp_path / layout / "log.jsonl").read_text().splitlines()
        losses[layout] = [json.loads(line)["loss"] for line in lines]
    for ours, theirs in zip(losses["true"], losses["false"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_run_channels_last_goes_on_bit_for_bit(tmp_path):
    assert_goes_on_bit_for_bit(tmp_path, "train.channels_last=true")
