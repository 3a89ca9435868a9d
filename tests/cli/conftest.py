"""Command lines run in this process, each test in an empty folder."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from t2i.cli import main
from tests.cli.command import PROMPT, Cli, Result
from tests.tiny import tiny_sd_folder

# For each command line typer builds all commands from their functions, 20 ms for the same result.
typer.main.get_command = cache(typer.main.get_command)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run one command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def built_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tests, to be copied: some write into their model's folder."""
    return tiny_sd_folder(tmp_path_factory.mktemp("built") / "tiny")


@pytest.fixture(scope="module")
def model(built_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(built_model, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def generate(cli: Cli, model: Path) -> Cli:
    """`t2i generate` on the tiny model in two steps, unless the arguments say otherwise."""

    def run(*arguments: str | Path) -> Result:
        return cli("generate", PROMPT, "--model", model, "--steps", "2", *arguments)

    return run


@pytest.fixture
def photo(cli: Cli) -> Path:
    """A picture of somebody's own, of the tiny model's size, in the folder of the command."""
    path = Path("photo.png")
    gradient = np.arange(32 * 32 * 3).reshape(32, 32, 3) // 12
    Image.fromarray(gradient.astype(np.uint8)).save(path)
    return path
