"""A run leaves the process as it was: every setting that holds for all of it, however it ended."""

import functools
import gc
import json
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import diffusers
import numpy as np
import pytest
import rich.style  # noqa: F401  # draws a number when it is first imported
import torch
import transformers
from accelerate import Accelerator

import t2i
from pipelines.text_to_image import TextToImagePipeline
from t2i.accelerate_state import default_device, isolated_accelerate_state, isolated_torch_rng
from t2i.cli import main
from tests import process_wide
from tests.evaluate.tiny_context import tiny_recogniser
from tests.tiny import tiny_sd_folder
from tests.train.runs import tiny_run, write_run
from train.loop import run_training
from train.targets.denoiser import ScratchDenoiserTarget

PROMPT = "a red apple to the left of a cat"
SUITE = """
[generation]
guidance_scales = [1.0]
batch = 2
seen = { seed = 1, count = 1 }
held_out = { seed = 1, count = 1 }
sweep = { seed = 2, count = 1 }
[inspection]
[editing]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And beside it a recogniser."""
    folder = tiny_sd_folder(tmp_path_factory.mktemp("model") / "tiny")
    folder.with_name("recogniser").mkdir()
    tiny_recogniser().save(folder.with_name("recogniser"), {})
    notes = {"defaults": {"steps": 2, "guidance_scale": 3.0}}
    (folder / "t2i.json").write_text(json.dumps(notes))
    return folder


def somebodys_handler(_number: int, _frame: FrameType | None) -> None:
    pass


@pytest.fixture
def _somebodys_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whose settings are none of ours, and none of the libraries' defaults."""
    before = process_wide.settings()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_info()
        library.utils.logging.enable_progress_bar()
    warnings.filterwarnings("ignore", "somebody's own")
    gc.set_threshold(54_321, 5, 6)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, somebodys_handler)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    torch.set_num_threads(2)
    Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3)
    yield
    process_wide.paste_edit(before)


def state() -> process_wide.Values:
    chance = {
        "torch's generator": torch.get_rng_state().tolist(),
        "random's generator": random.getstate(),
        "numpy's generator": str(np.random.get_state()),
    }
    return process_wide.settings() | chance


def trained(_model: Path) -> None:
    assert run_training(tiny_run(Path("run"), "train.steps=1"), Path("trained"))


def trained_by_command(_model: Path) -> None:
    toml = write_run(Path("run"))
    assert main(["train", str(toml), "--set", "train.steps=1", "--out", "trained"]) == 0


def refused_by_command(_model: Path) -> None:
    toml = write_run(Path("run"))
    assert main(["train", str(toml), "--set", "train.precision=fp16", "--out", "trained"]) == 2


def crashed(_model: Path) -> None:
    def crash(*_: object) -> None:
        torch.manual_seed(99)
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch, suppress(ZeroDivisionError):
        patch.setattr(ScratchDenoiserTarget, "forward", crash)
        run_training(tiny_run(Path("run")), Path("trained"))


def drawn(model: Path) -> None:
    pipe = t2i.load(str(model))
    pipe(PROMPT, num_inference_steps=1, generator=torch.Generator().manual_seed(1))


def crashed_while_drawing(model: Path) -> None:
    def crash(*_: object) -> dict[str, object]:
        raise ZeroDivisionError

    pipe = TextToImagePipeline.from_pretrained(model)
    seeded = torch.Generator().manual_seed(1)
    with suppress(ZeroDivisionError):
        pipe(PROMPT, num_inference_steps=2, generator=seeded, callback_on_step_end=crash)


def command(code: int, *arguments: str) -> Callable[[Path], None]:
    def act(model: Path) -> None:
        Path("prompts.txt").write_text(f"{PROMPT}\n")
        assert main([model if word == "MODEL" else word for word in arguments]) == code

    return act


def evaluated(model: Path) -> None:
    Path("suite.toml").write_text(SUITE)
    judge = model.with_name("recogniser")
    arguments = f"evaluate {model} --recogniser {judge} --suite suite.toml --part generation"
    assert main(arguments.split()) == 0


def interrupted(model: Path) -> None:
    """Ctrl-C while the first picture is drawn."""

    @functools.wraps(TextToImagePipeline.__call__)
    def press(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextToImagePipeline, "__call__", press)
        command(130, "generate", "--prompts", "prompts.txt", "--model", "MODEL")(model)


ACTIONS = {
    "train": trained,
    "t2i train": trained_by_command,
    "t2i train, refused": refused_by_command,
    "train, crashed": crashed,
    "draw": drawn,
    "draw, crashed": crashed_while_drawing,
    "t2i generate": command(0, "generate", PROMPT, "--model", "MODEL", "--seed", "1"),
    "t2i generate, refused": command(2, "generate", PROMPT, "--model", "MODEL", "--steps", "0"),
    "t2i generate --prompts": command(
        0, "generate", "--prompts", "prompts.txt", "--model", "MODEL"
    ),
    "t2i generate --prompts, interrupted": interrupted,
    "t2i edit": command(0, "edit", "a cat", "a dog", "--model", "MODEL", "--seed", "1"),
    "t2i inspect": command(0, "inspect", PROMPT, "--model", "MODEL", "--seed", "1"),
    "t2i evaluate": evaluated,
    "t2i env": command(0, "env"),
    "t2i models": command(0, "models"),
    "t2i, an unknown option": command(2, "generate", "--nonsense"),
}


@pytest.mark.usefixtures("_somebodys_process")
@pytest.mark.parametrize("action", ACTIONS)
def test_a_run_leaves_every_setting_of_the_process_as_it_was(action: str, model: Path) -> None:
    before = state()
    ACTIONS[action](model)
    assert process_wide.changes(before, state()) == []


def test_a_run_in_a_thread_leaves_the_signals_to_the_main_one(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ThreadPoolExecutor(1) as pool:
        config = tiny_run(tmp_path / "run", "train.steps=1")
        assert pool.submit(run_training, config, tmp_path / "out").result()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_device_is_found_without_a_state_that_stays() -> None:
    before = process_wide.settings()
    assert default_device() == torch.device("cpu")
    assert process_wide.changes(before, process_wide.settings()) == []


def test_chance_within_a_block_is_its_own() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with isolated_torch_rng():
        torch.manual_seed(6)
        torch.rand(1)
    assert torch.equal(torch.rand(3), expected)


def test_what_accelerate_is_told_within_a_block_is_forgotten_after_an_exception() -> None:
    before = process_wide.settings()
    with suppress(ZeroDivisionError), isolated_accelerate_state():
        Accelerator(mixed_precision="bf16", cpu=True)
        1 / 0  # noqa: B018
    assert process_wide.changes(before, process_wide.settings()) == []
