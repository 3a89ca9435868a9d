"""Losses beside the usual one: no number in them, and a base model that is no longer there."""

import shutil
from pathlib import Path

import pytest
import torch

import train.objective.attention_supervision as attention_supervision
import train.targets.finetune as finetune
from pipelines.text_to_image import TextToImagePipeline
from t2i.errors import ArgumentError, ModelError, TrainingError
from tests.train.runs import tiny_run, train_only
from tests.train.states import assert_equal_bit_for_bit
from tests.train.test_preferences import BETA, preferring
from tests.train.tuning import tuning

PRESERVED = ("target.preserve_weight=3", "target.preserve_words={ '<mug>' = 'cat' }")


def nothing(first: torch.Tensor, *_: object) -> torch.Tensor:
    """Of the shape of a loss, and no number in any row."""
    return first * float("nan")


@pytest.mark.parametrize("bad_steps", [0, 2])
@pytest.mark.parametrize("term", ["preference", "preservation", "attention"])
def test_a_term_that_is_no_number_stops_the_run_or_is_skipped(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, term: str, bad_steps: int
) -> None:
    short = ("train.steps=2", f"train.bad_steps={bad_steps}")
    if term == "preference":
        monkeypatch.setattr(finetune, "compute_preference_loss", nothing)
        config = preferring(tmp_path, base, BETA, *short)
    elif term == "preservation":
        monkeypatch.setattr(finetune, "compute_row_means", lambda t: nothing(t[:, 0, 0, 0]))
        config = tuning(tmp_path, base, "pivotal", *PRESERVED, *short)
    else:
        monkeypatch.setattr(
            attention_supervision,
            "compute_squared_outside_mask_loss",
            lambda maps_IQ, _: nothing(maps_IQ[:, 0]),
        )
        settings = ("target.caption_dropout=0", "target.attention_weight=0.5", *short)
        config = tiny_run(tmp_path, *settings)
    if not bad_steps:
        with pytest.raises(TrainingError, match=r"Step 1 gave loss nan .*Samples: .*\(loss nan\)"):
            train_only(config, tmp_path / "out")
        assert (tmp_path / "out/not-a-number/step-00000001.json").is_file()
        return
    done = train_only(config, tmp_path / "out")
    assert done.facts["stepper"]["skipped"] == config.train.steps


@pytest.mark.parametrize("parts", [("full",), ("lora",)], ids=str)
def test_a_preference_run_that_stopped_goes_on_beside_the_same_base_model(
    tmp_path: Path, base: Path, parts: tuple[str, ...]
) -> None:
    settings = (BETA, "rate.decay=none")
    whole = preferring(tmp_path / "whole", base, *settings, parts=parts)
    train_to_end = train_only(whole, tmp_path / "out")
    half = preferring(tmp_path / "half", base, *settings, "train.steps=2", parts=parts)
    train_only(half, tmp_path / "halved")
    rest = half.model_copy(update={"train": whole.train})
    assert_equal_bit_for_bit(train_to_end, train_only(rest, tmp_path / "halved"))


def test_another_base_model_under_a_run_that_goes_on_is_refused(tmp_path: Path, base: Path) -> None:
    own = shutil.copytree(base, tmp_path / "base")
    settings = (BETA, "train.steps=2")
    config = preferring(tmp_path / "run", own, *settings, parts=("full",))
    train_only(config, tmp_path / "out")
    further = config.model_copy(update={"train": config.train.model_copy(update={"steps": 4})})
    pipe = TextToImagePipeline.from_pretrained(own)
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.mul_(1.01)
    pipe.unet.save_pretrained(own / "unet")
    with pytest.raises(ArgumentError, match=r"\[model\] reference: \w{8}\.\.\. -> \w{8}\.\.\."):
        train_only(further, tmp_path / "out")
    shutil.rmtree(own)
    with pytest.raises(ModelError, match=r"base"):
        train_only(further, tmp_path / "out")
