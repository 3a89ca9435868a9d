"""A whole model folder, read-only, and a copy of it to break."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import tiny_sd_folder

UNET_FILE = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="package")
def whole(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def model(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def rewrite_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))
