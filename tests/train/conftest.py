"""Each test may choose its own precision; finished models to fine-tune."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from tests.denoiser.tiny_models import xl_folder
from tests.tiny import tiny_sd_folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Stable Diffusion's kind."""
    return tiny_sd_folder(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="session")
def base_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of SDXL's kind."""
    return xl_folder(tmp_path_factory.mktemp("base") / "xl")


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first run; forget it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
