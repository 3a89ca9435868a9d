"""For every test: one thread, fixed seeds, no network, and nothing left behind for the next."""

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

# Read by huggingface_hub and torch when they are first imported, in processes of tests' own too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
# Output is buffered for users, and so for the processes of tests.
os.environ.pop("PYTHONUNBUFFERED", None)

import numpy as np
import pytest
import torch

from tests import process_wide

REPO = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    # A model is thousands of objects: searching for garbage after every 700 new ones took a tenth
    # of the processor time, after every 20,000 a twentieth.
    gc.set_threshold(100_000, 10, 10)
    seed_this_processor_only()
    # pytest-randomly is for the order of the tests; their seeds are the same in every order.
    config.option.randomly_reset_seed = False
    process_wide.watch_freezing()


def pytest_collection_finish() -> None:
    process_wide.freeze_imports()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes is slow, so that `-m 'not slow'` leaves it out too."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


def seed_this_processor_only() -> None:
    """Let `torch.manual_seed` pass over the kinds of devices that this machine does not have.

    For each it stores the seed, with the text of the whole stack, until the device is first used:
    2 ms at the depth of a test, and several calls in each.
    """
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        if not kind.is_available():
            kind.manual_seed_all = pass_over  # type: ignore[assignment]


def pass_over(seed: int) -> None:
    pass


def seed_everything() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """What several tests share is the same whichever of them asks for it first."""
    if fixturedef.scope != "function":
        seed_everything()
    return (yield)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests run in any order: one that leaves a process-wide setting changed fails, by name."""
    seed_everything()
    before = process_wide.settings()
    yield
    left = process_wide.changes(before, process_wide.settings())
    process_wide.paste_edit(before)
    if left:
        pytest.fail(f"{request.node.nodeid} left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO
