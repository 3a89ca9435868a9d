"""Finished models to fine-tune, and an accelerator for runs that are looked at in progress."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from t2i.accelerate_state import isolated_accelerate_state
from tests.denoiser.tiny_models import xl_folder
from tests.tiny import tiny_sd_folder
from tests.train.runs import tiny_run
from train.loop import run_training


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Stable Diffusion's kind."""
    return tiny_sd_folder(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="session")
def base_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of SDXL's kind."""
    return xl_folder(tmp_path_factory.mktemp("base") / "xl")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny run comes to by one process, whole steps at a time; to be read only."""
    folder = tmp_path_factory.mktemp("plain")
    assert run_training(tiny_run(folder), folder / "one")
    return folder / "one"


@pytest.fixture
def _own_accelerator() -> Iterator[None]:
    """For tests that look at a run in progress, in `accelerator_of` in place of `accelerated`."""
    with isolated_accelerate_state():
        yield
