"""A recogniser is trained by the one loop, and learns."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.errors import ArgumentError, ModelError
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.recogniser_data import RecogniserDataset, RecogniserDatasetConfig
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.train.runs import train_only
from tests.train.states import assert_equal_bit_for_bit, logged, newest
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import run_training
from train.targets.caption_matcher import swap_position_words

OBJECTS = ("apple", "cat", "car")

RECOGNISER = """
seed = 1
[target]
kind = "recogniser"
channels = [16, 32]
[data]
kind = "compositions"
size = 32
vocabulary = ["apple", "cat", "car"]
[train]
steps = 6
batch_size = 8
device = "cpu"
log_every = 1
checkpoint_every = 3
[optimizer]
learning_rate = 4e-3
"""
AGREEMENT = """
seed = 1
[target]
kind = "agreement"
recogniser = "seen"
width = 16
layers = 1
[data]
kind = "scenes"
size = 32
vocabulary = ["apple", "cat", "car"]
[train]
steps = 4
batch_size = 8
device = "cpu"
log_every = 1
checkpoint_every = 2
[optimizer]
learning_rate = 3e-3
"""


def written(folder: Path, text: str, *overrides: str) -> RunConfig:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.toml"
    path.write_text(text)
    return load_run_config(path, overrides)


def test_a_stopped_training_of_a_recogniser_ends_bit_for_bit(tmp_path: Path) -> None:
    whole = train_only(written(tmp_path / "a", RECOGNISER), tmp_path / "whole")
    train_only(written(tmp_path / "b", RECOGNISER, "train.steps=3"), tmp_path / "parts")
    parts = train_only(written(tmp_path / "b", RECOGNISER), tmp_path / "parts")
    assert_equal_bit_for_bit(parts, whole)


def test_a_recogniser_learns_what_and_where(tmp_path: Path) -> None:
    options = ("train.steps=80", "train.checkpoint_every=80", "optimizer.learning_rate=8e-3")
    options += ("data.disturbed=false", "samples.every=80", "ema.decay=0.9")
    config = written(tmp_path, RECOGNISER, *options)
    assert run_training(config, tmp_path / "out")
    losses = [line["loss"] for line in logged(tmp_path / "out")]
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:3])
    assert (tmp_path / "out" / "samples" / "step-00000080.png").is_file()

    recogniser = Recogniser.load(tmp_path / "out" / "model")
    assert recogniser.labels.objects == OBJECTS
    data = RecogniserDataset(
        RecogniserDatasetConfig(seed=9, size=32, vocabulary=OBJECTS, disturbed=False)
    )
    batch = next(
        iterate_micro_batches_of_steps(
            data, BatchOrder([range(1000)], 32, 0), ProcessShare(), range(1)
        )
    )
    assert batch.marks_B2HW is not None
    maps = recogniser(batch.pixels_BCHW)
    kind_Bhw = batch.marks_B2HW[:, 0, 2::4, 2::4]
    right_Bhw = maps.class_logits_BKhw.argmax(1) == kind_Bhw
    thing_Bhw = kind_Bhw < recogniser.labels.unknown_index
    assert right_Bhw[thing_Bhw].float().mean() > 0.6  # by chance 1 in 16
    assert right_Bhw[~thing_Bhw].float().mean() > 0.8


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained recogniser; to be read only."""
    folder = tmp_path_factory.mktemp("seen")
    assert run_training(written(folder, RECOGNISER, "train.steps=2"), folder / "out")
    return folder / "out" / "model"


def test_an_agreement_is_trained_over_a_recogniser_that_stays(tmp_path: Path, seen: Path) -> None:
    shutil.copytree(seen, tmp_path / "seen")
    before = Recogniser.load(tmp_path / "seen").state_dict()

    assert run_training(written(tmp_path, AGREEMENT), tmp_path / "whole")
    whole = newest(tmp_path / "whole")
    train_only(written(tmp_path, AGREEMENT, "train.steps=2"), tmp_path / "parts")
    assert_equal_bit_for_bit(train_only(written(tmp_path, AGREEMENT), tmp_path / "parts"), whole)
    assert not any(
        name.startswith("caption_matcher.recogniser") for name in whole.tensors["weights"]
    )

    caption_matcher = CaptionMatcher.load(tmp_path / "whole" / "model")
    for name, weight in caption_matcher.recogniser.state_dict().items():
        assert torch.equal(weight, before[name]), name
    scene = SceneDataset(SceneDatasetConfig(seed=9, size=64, vocabulary=OBJECTS)).render_scene(0)
    picture = Image.fromarray(scene.pixels)
    both = caption_matcher.compute_paired_similarities([picture, picture], [scene.caption, "a car"])
    assert both.shape == (2,)
    assert both[0] != both[1]
    assert both.abs().max() <= 1 + 1e-6


def test_a_run_over_another_recogniser_is_not_gone_on_with(tmp_path: Path, seen: Path) -> None:
    shutil.copytree(seen, tmp_path / "seen")
    train_only(written(tmp_path, AGREEMENT, "train.steps=1"), tmp_path / "words")
    assert run_training(
        written(tmp_path, RECOGNISER, "seed=2", "train.steps=1"), tmp_path / "other"
    )
    (tmp_path / "seen").rename(tmp_path / "gone")
    (tmp_path / "other" / "model").rename(tmp_path / "seen")
    with pytest.raises(ArgumentError, match="the weights of the frozen parts"):
        run_training(written(tmp_path, AGREEMENT), tmp_path / "words")


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a cat to the left of a dog", "a cat to the right of a dog"),
        ("a cat with a dog below it, red background", "a cat with a dog above it, red background"),
        ("a car at the top and a cat at the bottom", "a car at the bottom and a cat at the top"),
        ("a leftover cat", "a leftover cat"),
    ],
)
def test_a_caption_turned_round(caption: str, wrong: str) -> None:
    assert swap_position_words(caption) == wrong


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (RECOGNISER, ["data.kind=scenes"], "trained on 'compositions', but data.kind = 'scenes'"),
        (RECOGNISER, ["model=x.toml"], "'recogniser' is no part of a model: drop the key 'model'"),
        (AGREEMENT, ["data.kind=compositions"], "set data.kind = 'scenes'"),
        (RECOGNISER, ["data.colour=1"], "Unknown key 'data.colour'"),
        (
            AGREEMENT,
            ["target.kind=seer"],
            "target.kind: expected one of .*'recogniser'.*, got 'seer'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        written(tmp_path, text, *overrides)


def test_levels_that_do_not_divide_the_picture_are_refused(tmp_path: Path) -> None:
    config = written(tmp_path, RECOGNISER, "data.size=36")
    with pytest.raises(ArgumentError, match=r"data.size = 36: expected .* a multiple of 8"):
        run_training(config, tmp_path / "out")


def test_a_folder_without_a_recogniser_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No recogniser can be loaded from .*recogniser.toml"):
        Recogniser.load(tmp_path)
    with pytest.raises(ModelError, match="name the folder of a finished run"):
        CaptionMatcher.load(tmp_path)
