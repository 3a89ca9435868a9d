"""A process of a run that misses another one says so, whatever the two were exchanging."""

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from t2i.errors import TrainingError
from tests.train.apart import CONTEXT, MINUTE
from train.loop_config import LoopConfig
from train.parallel.lost_processes import explaining_lost_process
from train.parallel.processes import open_accelerator

ACCELERATOR: Any = SimpleNamespace(num_processes=2)


def exchange(rank: int, store: str, exchanging: str, floats: int, answers: Any) -> None:
    """Two processes that exchange floats until the second one ends."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=MINUTE), rank=rank, world_size=2
    )
    distributed.barrier()
    if rank == 1:
        os._exit(1)
    try:
        with explaining_lost_process(ACCELERATOR, lambda: "after step 3"):
            while True:
                values = torch.ones(floats)
                if exchanging == "sum":
                    distributed.all_reduce(values)
                elif exchanging == "send":
                    distributed.send(values, 1)
                else:
                    distributed.barrier()
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("exchanging", "floats"), [("sum", 2), ("sum", 1_000_000), ("send", 1_000_000), ("barrier", 1)]
)
def test_a_process_that_misses_another_says_so(
    exchanging: str, floats: int, tmp_path: Path
) -> None:
    answers = CONTEXT.Queue()
    given = (str(tmp_path / "store"), exchanging, floats, answers)
    pair = [CONTEXT.Process(target=exchange, args=(rank, *given), daemon=True) for rank in (0, 1)]
    for process in pair:
        process.start()
    assert answers.get(timeout=MINUTE).startswith(
        "TrainingError: Another process of this run ended after step 3; its own message says why."
    )
    for process in pair:
        process.join(MINUTE)


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:353] writev [127.0.0.1]:4711: Broken pipe",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv",
        "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server crash?",
        "NCCL communicator was aborted on rank 0.",
    ],
)
def test_messages_of_lost_processes_are_known(message: str) -> None:
    with pytest.raises(TrainingError, match=r"ended after step 3.*newest checkpoint is sound"):
        raise_within(RuntimeError(message))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        raise_within(RuntimeError("shapes do not fit"))


def raise_within(error: Exception) -> None:
    with explaining_lost_process(ACCELERATOR, lambda: "after step 3"):
        raise error


def test_a_process_that_misses_another_before_or_after_its_steps_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TrainingError, match="ended outside of its steps"):
        miss_another_process(monkeypatch)


def miss_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_accelerator(LoopConfig(steps=1, batch_size=1, device="cpu"), "adamw") as accelerator:
        monkeypatch.setattr(type(accelerator), "num_processes", property(lambda _: 2))
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
