"""What a run takes from Accelerate's config and variables, and what it decides itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils import DynamoBackend
from torch import distributed

from tests.train.runs import tiny_run
from train.processes import PATIENCE, accelerator_of


@pytest.fixture
def _one_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a launcher starts the only process of a run."""
    told = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_of_one")
def test_the_others_wait_for_the_main_process_longer_than_pictures_take_to_draw(
    tmp_path: Path,
) -> None:
    accelerator_of(tiny_run(tmp_path))
    group = distributed.group.WORLD._get_backend(torch.device("cpu"))
    assert group.options._timeout == PATIENCE
    assert PATIENCE.total_seconds() >= 3600


def test_parts_of_a_batch_and_compiling_are_the_runs_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With it Accelerate would divide every loss by four.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    # And with this compile the whole target, its gradient not looked at.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    accelerator = accelerator_of(tiny_run(tmp_path))
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
