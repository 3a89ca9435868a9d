"""Configs of controls: what `t2i train --init controlnet` writes, and those of configs/train."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t2i
from t2i.cli import main
from t2i.controls.control import Control
from t2i.controls.loading import load_control_network
from t2i.errors import ArgumentError, DataError
from tests.sweeps import sweep
from tests.train.data.making import folder_of, noise
from tests.train.regenerate_configs import CONFIGS
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import run_training
from train.setup.assembly import assemble_target
from train.starter_config.options import StarterConfigOptions
from train.starter_config.starter_config import write_starter_config
from train.starter_config.template_values import CONTROL_METHODS
from train.targets.control_network import ControlTargetConfig

TINY = ("train.steps=2", "train.batch_size=2", "train.device=cpu", "samples.steps=1",
        "data.size=64")  # fmt: skip


def written(method: str, folder: Path, **wishes: str) -> RunConfig:
    out = folder.parent / f"{method}.toml"
    write_starter_config(StarterConfigOptions(method, folder, **wishes), out)
    return load_run_config(out)


def with_hints(folder: Path, *colours: str) -> Path:
    folder_of(folder, *colours)
    (folder / "hints").mkdir()
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            noise(3, *picture.size).save(folder / "hints" / path.name)
    return folder


@pytest.mark.parametrize("base", ["embedded", "runwayml/stable-diffusion-v1-5", "someone/my-sdxl"])
@pytest.mark.parametrize("method", CONTROL_METHODS)
def test_what_init_writes_is_a_run_for_every_base(tmp_path: Path, method: str, base: str) -> None:
    config = written(method, folder_of(tmp_path / "mugs", "red", "green"), base=base)
    assert isinstance(config.target, ControlTargetConfig)
    assert (config.target.kind, config.target.base) == (method, base)
    assert getattr(config.data, "hint", None) == "canny"
    assert config.samples.prompts == config.samples.hints == ()
    assert config.train.steps >= 2000


@pytest.mark.parametrize("method", CONTROL_METHODS)
def test_what_init_writes_for_the_embedded_model_fits_it(tmp_path: Path, method: str) -> None:
    config = written(method, folder_of(tmp_path / "mugs", "red", "green"), base="embedded")
    target, _ = assemble_target(config)
    assert target.collect_trained_parameters_by_name()


def test_a_folder_of_hints_within_the_pictures_is_used(tmp_path: Path) -> None:
    folder = with_hints(tmp_path / "mugs", "red", "green", "blue")
    config = written("controlnet", folder, base="embedded")
    (subset,) = config.data.subsets  # type: ignore[union-attr]
    assert (subset.folder, subset.hints) == (folder, folder / "hints")
    assert config.data.hint is None  # type: ignore[union-attr]
    assert "a red sheet" not in (tmp_path / "controlnet.toml").read_text()
    (folder / "hints" / "01-green.png").unlink()
    (tmp_path / "controlnet.toml").unlink()
    with pytest.raises(DataError, match=r"Without a hint: 1 picture:\n.*01-green\.png"):
        written("controlnet", folder)


@pytest.mark.parametrize("method", sweep(CONTROL_METHODS, quick=["controlnet"]))
def test_what_init_writes_trains(tmp_path: Path, base: Path, method: str) -> None:
    folder = with_hints(tmp_path / "mugs", "red", "green", "blue")
    out = tmp_path / "start.toml"
    assert main(["train", "--init", method, str(folder), "--out", str(out)]) == 0
    assert run_training(load_run_config(out, [*TINY, f"target.base={base}"]), tmp_path / "out")
    assert load_control_network(tmp_path / "out/model", t2i.load(base).unet)


@pytest.mark.parametrize("method", sweep(CONTROL_METHODS, quick=["t2i-adapter"]))
def test_a_shipped_config_trains_on_a_folder_of_pictures(
    tmp_path: Path, base: Path, method: str
) -> None:
    folder = folder_of(tmp_path / "pictures", "red", "green", "blue", captions=False)
    overrides = [*TINY, f"data.folder={folder}", "data.held_out=0", "validation.every=0"]
    config = load_run_config(CONFIGS / f"{method}.toml", [*overrides, f"target.base={base}"])
    assert run_training(config, tmp_path / "out")


def test_words_and_pairs_are_not_for_controls(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mugs", "red", "green")
    for wish in ({"word": "sks"}, {"kind": "mug"}):
        with pytest.raises(ArgumentError, match="learns to read hints and no word"):
            written("t2i-adapter", folder, **wish)
    folder_of(folder / "losers", "blue", "cyan", captions=False)
    for old, new in (("00-blue", "00-red"), ("01-cyan", "01-green")):
        (folder / f"losers/{old}.png").rename(folder / f"losers/{new}.png")
    with pytest.raises(ArgumentError, match=r"losers makes pairs .* a control does not learn"):
        written("controlnet", folder)


def test_pictures_without_captions_get_no_made_up_one(tmp_path: Path) -> None:
    config = written("controlnet", folder_of(tmp_path / "mugs", "red", captions=False))
    text = (tmp_path / "controlnet.toml").read_text()
    assert "sks" not in text
    assert getattr(config.data, "caption", "") is None
    assert getattr(config.data, "trigger", None) == ""


def test_the_recipe_of_the_embedded_models_controlnet_runs_to_a_control(
    tmp_path: Path, base: Path
) -> None:
    recipe = CONFIGS / "embedded-controlnet.toml"
    tiny = [*TINY[:-1], "data.size=32", "validation.every=2", "validation.most=2",
            "train.precision=no"]  # fmt: skip
    assert run_training(load_run_config(recipe, [*tiny, f"target.base={base}"]), tmp_path / "out")
    pipe = t2i.load(base)
    layout = Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8))
    control = Control(load_control_network(tmp_path / "out/model", pipe.unet), layout)
    assert pipe("red apple", num_inference_steps=1, controls=[control]).images


def test_the_recipes_result_is_below_8_megabytes(tmp_path: Path) -> None:
    target, _ = assemble_target(load_run_config(CONFIGS / "embedded-controlnet.toml"))
    assert (
        2 * sum(weight.numel() for weight in target.collect_trained_parameters_by_name().values())
        < 8e6
    )
