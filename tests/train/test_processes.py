"""What a run takes from Accelerate's config and variables, what it decides itself, and that neither
outlives it."""

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DynamoBackend
from torch import distributed

from t2i.errors import ArgumentError
from tests.train.runs import accelerated_for, tiny_run
from train.loop import run_training
from train.parallel.processes import PROCESS_WAIT_TIMEOUT


@pytest.fixture
def _one_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launcher starts the only process of a run."""
    told = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.fixture
def _in_a_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As somebody's own program has it."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which torch replaces
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = distributed.TCPStore("127.0.0.1", port, 1, is_master=True)
    distributed.init_process_group(
        "gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=5)
    )
    yield
    distributed.destroy_process_group()


def timeout() -> timedelta:
    found: timedelta = distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout
    return found


@pytest.mark.usefixtures("_one_of_one")
def test_the_others_wait_for_the_main_process_longer_than_pictures_take_to_draw(
    tmp_path: Path,
) -> None:
    with accelerated_for(tiny_run(tmp_path)):
        assert timeout() == PROCESS_WAIT_TIMEOUT
    assert PROCESS_WAIT_TIMEOUT.total_seconds() >= 3600


@pytest.mark.usefixtures("_one_of_one")
def test_the_second_run_of_a_process_has_its_own_group_and_precision(tmp_path: Path) -> None:
    for precision in ("no", "bf16", "no"):
        with accelerated_for(tiny_run(tmp_path, f"train.precision={precision}")) as accelerator:
            assert accelerator.mixed_precision == precision
            assert timeout() == PROCESS_WAIT_TIMEOUT
        assert not distributed.is_initialized()


@pytest.mark.usefixtures("_one_of_one")
def test_a_run_that_fails_leaves_no_group_and_no_state(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="'fp16' needs an accelerator"):
        run_training(tiny_run(tmp_path, "train.precision=fp16"), tmp_path / "out")
    with suppress(ZeroDivisionError), accelerated_for(tiny_run(tmp_path)):
        assert distributed.is_initialized()
        1 / 0  # noqa: B018
    assert not distributed.is_initialized()
    assert not PartialState._shared_state


def test_an_accelerator_of_somebody_else_is_neither_used_nor_changed(tmp_path: Path) -> None:
    try:
        theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3)
        with accelerated_for(tiny_run(tmp_path)) as ours:
            assert ours.mixed_precision == "no"
            assert ours.gradient_accumulation_steps == 1
        assert theirs.mixed_precision == "bf16"
        assert theirs.gradient_accumulation_steps == 3
        assert theirs.num_processes == 1
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        theirs.gradient_state._reset_state()


@pytest.mark.usefixtures("_in_a_group")
def test_a_process_that_stands_in_a_group_is_refused_and_stays_in_it(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"process group already, of 1 over gloo.*destroy_process_group\(\)"
    ):
        run_training(tiny_run(tmp_path), tmp_path / "out")
    assert timeout() == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("wish", "name"),
    [("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism_config")],
)
def test_what_the_loop_cannot_do_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str, name: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{wish}", "true")
    with pytest.raises(ArgumentError, match=f"asks for {name}.*use FSDP2"):
        run_training(tiny_run(tmp_path), tmp_path / "out")


def test_parts_of_a_batch_and_compiling_are_the_runs_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With it Accelerate would divide every loss by four.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    # And with this compile the whole target, its gradient not looked at.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    with accelerated_for(tiny_run(tmp_path)) as accelerator:
        assert accelerator.gradient_accumulation_steps == 1
        assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
