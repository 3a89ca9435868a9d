"""Commands of tests share a model in memory as long as nobody has changed it, or its files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from pipelines.text_to_image import TextToImagePipeline
from tests.cli.loaded_models import share_loaded_models


@pytest.fixture(autouse=True)
def _sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    share_loaded_models(monkeypatch)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def test_an_unchanged_model_is_shared_and_its_scheduler_is_not(folder: Path) -> None:
    one = TextToImagePipeline.from_pretrained(folder)
    one.scheduler.set_timesteps(3)
    one.step_callbacks.append(object())
    two = TextToImagePipeline.from_pretrained(folder)
    assert two.unet is one.unet
    assert two.tokenizer is one.tokenizer
    assert two.scheduler is not one.scheduler
    assert len(two.scheduler.timesteps) == 1000
    assert two.step_callbacks == []


def changed_weight(pipe: Any) -> None:
    with torch.no_grad():
        pipe.unet.conv_in.weight += 1


def with_lora(pipe: Any) -> None:
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))


def with_lora_that_is_removed(pipe: Any) -> None:
    with_lora(pipe)
    pipe.unet.delete_adapters("default")


def with_word(pipe: Any) -> None:
    pipe.tokenizer.add_tokens(["<sun>"])


def with_hook(pipe: Any) -> None:
    pipe.vae.register_forward_hook(lambda *_: None)


def sliced(pipe: Any) -> None:
    pipe.vae.enable_slicing()


@pytest.mark.parametrize(
    "change",
    [changed_weight, with_lora, with_lora_that_is_removed, with_word, with_hook, sliced],
)
def test_a_changed_model_is_not_shared(folder: Path, change: Callable[[Any], None]) -> None:
    one = TextToImagePipeline.from_pretrained(folder)
    change(one)
    assert TextToImagePipeline.from_pretrained(folder).unet is not one.unet


def test_other_files_are_another_model(folder: Path) -> None:
    one = TextToImagePipeline.from_pretrained(folder)
    (folder / "t2i.json").write_text('{"defaults": {"steps": 3}}')
    two = TextToImagePipeline.from_pretrained(folder)
    assert two.unet is not one.unet
    assert two.notes is not None
