"""`using_preset`: a model's preset in Python draws what `t2i generate --preset` draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import t2i
from pipelines.presets import using_preset
from t2i.denoiser.presets import Preset
from t2i.errors import ArgumentError, ModelError
from tests.cli.preset_model import write_notes, write_unet_lora
from tests.tiny import tiny_sd_components, tiny_sd_folder

PROMPT = "a red cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_sd_folder(tmp_path_factory.mktemp("presets") / "tiny")
    unet = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet")
    write_unet_lora(folder / "quick" / "fast.safetensors", unet)
    write_notes(folder)
    return folder


def draw(pipe: Any, **arguments: Any) -> Any:
    noise = torch.Generator("cpu").manual_seed(7)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(PROMPT, generator=noise, **arguments).images[0])


def test_a_preset_holds_within_its_block_alone(folder: Path) -> None:
    pipe = t2i.load(str(folder))
    before, scheduler, names = draw(pipe), pipe.scheduler, [*pipe.unet.state_dict()]
    with using_preset(pipe, "fast") as arguments:
        assert arguments == {"num_inference_steps": 3, "guidance_scale": 1.0}
        assert type(pipe.scheduler).__name__ == "LCMScheduler"
        fast = draw(pipe, **arguments)
    assert not np.array_equal(fast, before)
    assert pipe.scheduler is scheduler
    assert [*pipe.unet.state_dict()] == names
    assert np.array_equal(draw(pipe), before)
    with using_preset(pipe, "exact") as arguments:
        assert np.array_equal(draw(pipe, **arguments), before)
    with using_preset(pipe, "cut") as arguments:
        assert arguments.keys() == {"num_inference_steps", "guidance_scale", "guidance", "cache"}
        assert not np.array_equal(draw(pipe, **arguments), before)


def test_the_picture_is_the_one_of_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from t2i.cli import main

    path = tmp_path / "fast.png"
    run = ("generate", PROMPT, "--model", folder, "--seed", "7", "--fast", "--out", path)
    assert main([str(one) for one in run]) == 0
    pipe = t2i.load(str(folder))
    with using_preset(pipe, "fast") as arguments:
        assert np.array_equal(draw(pipe, **arguments), np.asarray(Image.open(path)))


def test_presets_that_cannot_be_used_are_refused_and_leave_nothing_behind(folder: Path) -> None:
    pipe = t2i.load(str(folder))
    scheduler = pipe.scheduler
    with pytest.raises(ArgumentError, match="Did you mean 'fast'"), using_preset(pipe, "fats"):
        pass
    missing = Preset(sampler="euler", loras=({"path": "quick/no.safetensors"},))  # type: ignore[arg-type]  # pydantic reads it
    with pytest.raises(ArgumentError, match=r"quick/no\.safetensors"), using_preset(pipe, missing):
        pass
    assert pipe.scheduler is scheduler
    with (
        pytest.warns(UserWarning, match="was chosen for other weights"),
        using_preset(pipe, Preset(steps=2, weights="0" * 64)),
    ):
        pass
    built = t2i.TextToImagePipeline(**tiny_sd_components())
    with pytest.raises(ModelError, match="t2i tune"), using_preset(built, "fast", folder):
        pass
