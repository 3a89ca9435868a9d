"""For every test: one thread, a fixed seed, no network; and where the repository is."""

import os
from pathlib import Path

# Read by huggingface_hub and torch when they are first imported, in processes of tests' own too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO
