"""The last stages of a shipped model: a decoder that learns on, and a folder others can judge."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image

from t2i.errors import OutputError, TrainingError
from tests.train.runs import RUN, write_run
from train.config.load_config import load_run_config
from train.loop import run_training
from train.publish import write_model_with_card

AUTOENCODER = RUN[: RUN.index("[target]")] + '[target]\nkind = "autoencoder"\n'
AUTOENCODER += RUN[RUN.index("[data]") :]
SAMPLES = '[samples]\nsteps = 2\nprompts = ["a cat", "a dog"]\n'


def train_stages(folder: Path) -> Path:
    """An autoencoder, a denoiser on it, and its decoder once more; the folder of their runs."""
    runs = folder / "runs"
    vae = f"target.vae={runs / 'tiny-vae' / 'model'}"
    run_training(load_run_config(write_run(folder, AUTOENCODER)), runs / "tiny-vae")
    run_training(load_run_config(write_run(folder, RUN + SAMPLES), [vae]), runs / "tiny")
    decoder = [vae, "target.train_encoder=false", "seed=9"]
    run_training(load_run_config(write_run(folder, AUTOENCODER), decoder), runs / "tiny-decoder")
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of all stages; to be read only."""
    return train_stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step; to be read only."""
    folder = tmp_path_factory.mktemp("step")
    assert run_training(
        load_run_config(write_run(folder, RUN + SAMPLES), ["train.steps=1"]), folder / "out"
    )
    return folder / "out"


def test_a_decoder_learns_on_while_the_latents_stay(runs: Path) -> None:
    before = AutoencoderTiny.from_pretrained(runs / "tiny-vae" / "model")
    after = AutoencoderTiny.from_pretrained(runs / "tiny-decoder" / "model")
    assert before.config["scaling_factor"] == after.config["scaling_factor"] != 1
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    same = {name: torch.equal(one, other) for (name, one), other in pairs}
    assert all(equal for name, equal in same.items() if name.startswith("encoder."))
    assert not any(equal for name, equal in same.items() if name.startswith("decoder."))


def test_a_published_model_has_its_card_curve_and_sheet(tmp_path: Path, runs: Path) -> None:
    folder = tmp_path / "published"
    write_model_with_card(runs / "tiny", folder, "Draws blobs.", runs / "tiny-decoder" / "model")

    card = (folder / "README.md").read_text()
    assert "Draws blobs." in card
    assert "denoiser and text encoder (v_prediction" in card
    assert "autoencoder, its decoder alone: 4 steps of 4 pictures" in card
    for name in ("samples.png", "loss.png"):
        with Image.open(folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert json.loads((folder / "t2i.json").read_text())["defaults"]["steps"] == 2

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    refined = AutoencoderTiny.from_pretrained(runs / "tiny-decoder" / "model")
    name = "decoder.layers.0.weight"
    assert torch.equal(pipe.vae.state_dict()[name], refined.state_dict()[name].half().float())


def test_a_published_model_that_learns_on_keeps_its_history(tmp_path: Path, one_step: Path) -> None:
    second = tmp_path / "second"
    write_model_with_card(one_step, tmp_path / "published", "")
    parts = [f"target.{p}={tmp_path / 'published' / p}" for p in ("vae", "unet", "text_encoder")]
    run_training(
        load_run_config(
            write_run(tmp_path, RUN + SAMPLES),
            ["train.steps=2", *parts, "target.train_text_encoder=false"],
        ),
        second,
    )
    write_model_with_card(second, tmp_path / "published", "")
    stages = json.loads((tmp_path / "published" / "t2i.json").read_text())["stages"]
    assert [line.split(":")[1].split(",")[0] for line in stages] == [
        " 1 step of 4 pictures",
        " 2 steps of 4 pictures",
    ]
    assert [line.startswith("denoiser and text encoder (") for line in stages] == [True, False]
    card = (tmp_path / "published" / "README.md").read_text()
    assert all(f"- {line}" in card for line in stages)


def test_an_unfinished_run_is_not_published(tmp_path: Path, one_step: Path) -> None:
    with pytest.raises(TrainingError, match="No finished model"):
        write_model_with_card(tmp_path / "absent", tmp_path / "published", "")
    out = tmp_path / "out"
    shutil.copytree(one_step, out)
    config = json.loads((out / "config.json").read_text())
    config["train"]["steps"] = 9
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match="is of step 1, but the run goes on to step 9"):
        write_model_with_card(out, tmp_path / "published", "")


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, one_step: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds no model"):
        write_model_with_card(one_step, precious, "")
    assert (precious / "letter.txt").read_text() == "dear"
