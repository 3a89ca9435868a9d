"""`t2i ema`: a run's model with averages of another length, read by the plain pipeline."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from t2i.cli import main
from tests.train.runs import tiny_run
from train.loop import run_training
from train.optim.ema_snapshots import list_snapshots
from train.optim.posthoc_ema import AverageProfile, reconstruct_average_and_error

POWER = ('ema={kind="power", snapshot_every=2}', "train.steps=8", "export.precision=fp32")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("power")
    assert run_training(tiny_run(folder, *POWER), folder / "run")
    return folder / "run"


def loaded(folder: Path) -> torch.Tensor:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    weight: torch.Tensor = pipe.unet.conv_in.weight
    return weight


def test_the_model_has_the_average_that_was_asked_for(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "long"
    assert main(["ema", str(finished), "--length", "0.2", "--out", str(out)]) == 0
    expected, _ = reconstruct_average_and_error(
        list_snapshots(finished / "ema"), AverageProfile(0.2, 8)
    )
    assert torch.equal(loaded(out), expected["unet.conv_in.weight"])
    assert not torch.equal(loaded(out), loaded(finished / "model"))
    assert json.loads((out / "t2i.json").read_text())["average"]["length"] == 0.2


def test_the_length_in_use_gives_the_model_that_the_run_wrote(
    finished: Path, tmp_path: Path
) -> None:
    assert main(["ema", str(finished), "--length=0.05", f"--out={tmp_path / 'same'}"]) == 0
    torch.testing.assert_close(
        loaded(tmp_path / "same"), loaded(finished / "model"), rtol=0, atol=1e-7
    )


def test_the_folder_is_named_and_the_error_of_a_far_profile_is_told(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ema", str(finished), "--length=0.25", "--step=3", "--format=json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["folder"] == str(finished / "model-length-0.25-step-3")
    assert document["snapshots"] == 4
    assert document["error"] > 0.05
    assert "reproduce the average of length 0.25 with an error of" in said.err

    assert main(["ema", str(finished), "--length=0.25", "--step=3"]) == 5
    assert "exists and is not replaced" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ema", str(tmp_path), "--length=0.1"]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
