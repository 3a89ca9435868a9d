"""However a run ends, the same command finishes it as if it had never ended: every method."""

import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from t2i.run_folder import locking_folder
from tests.sweeps import sweep
from tests.train.apart import die_in_third_save, ended, ready, said, start
from tests.train.runs import write_run
from tests.train.states import assert_same_end, logged, newest
from tests.train.tuning import METHODS, OF_TWO_ENCODERS, tuning, write_tuning
from train.batches.micro_batch import MicroBatch
from train.checkpoint import recover_and_list_checkpoint_folders
from train.config.load_config import load_run_config
from train.loop import run_training
from train.targets.denoising import BaseDenoisingTarget

pytestmark = pytest.mark.timeout(400)  # the first process of its own imports everything

NO_CACHE = ("cache.latents=false", "cache.texts=false")
OTHERWISE = {
    "accumulated": ("train.accumulation=2",),
    "encoding as it goes": NO_CACHE,
    "read ahead": ("train.workers=1",),
    "adafactor": ("optimizer.name=adafactor", "optimizer.eps=1e-8"),
    "prodigy": ("optimizer.name=prodigy", "optimizer.learning_rate=1.0", "ema.kind=power"),
    "schedulefree": ("optimizer.name=schedulefree", "ema.kind=none", "rate.decay=none"),
}
"""Settings under which a run is resumed another way."""
BY_METHOD = {
    "cross-attention": ("train.accumulation=2",),
    "words": NO_CACHE,
    "pivotal": ("train.accumulation=2",),
    "dreambooth": ("train.accumulation=2",),
    "lokr": NO_CACHE,
}
"""Those that the quick tests mix with a method."""
QUICK = ("pivotal", "dreambooth")
"""Words beside adapters, and prior pictures; whole models are resumed in test_loop.py."""


class Interrupted(BaseException):
    """Nothing that anybody catches."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """End the next run in the middle of the last part of a step."""
    forward = BaseDenoisingTarget.forward

    def or_not(self: BaseDenoisingTarget, batch: MicroBatch) -> Tensor:
        if batch.step == at_step and max(batch.slots) == self.batch_size - 1:
            raise Interrupted
        return forward(self, batch)

    monkeypatch.setattr(BaseDenoisingTarget, "forward", or_not)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes that are killed have: another number rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("method", sweep(METHODS, quick=QUICK))
def test_an_interrupted_fine_tune_ends_bit_for_bit_as_a_whole_one(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nine pictures, four a step: steps 3 and later are of the second epoch.
    settings = ("train.steps=5", "train.checkpoint_every=2", *BY_METHOD.get(method, ()))
    config = tuning(tmp_path, base, method, *settings)
    run_training(config, tmp_path / "whole")
    at_step = random.Random(method).randrange(3, 5)
    with monkeypatch.context() as patch:
        interrupt(patch, at_step)
        with pytest.raises(Interrupted):
            run_training(config, tmp_path / "parts")
    assert newest(tmp_path / "parts").step == at_step // 2 * 2
    run_training(config, tmp_path / "parts")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def wait_for_step(out: Path, step: int, process: BaseProcess) -> None:
    """Return once the log shows `step`; fail if the process ends before."""
    for _ in range(1200):
        if (out / "log.jsonl").exists() and len(logged(out)) >= step:
            return
        assert process.exitcode is None, said(out)
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in a minute")


def kill(process: BaseProcess) -> bool:
    """Whether it still ran."""
    process.kill()
    return ended(process) == -signal.SIGKILL


@pytest.mark.slow
def test_a_fine_tune_killed_with_9_at_any_moment_ends_as_the_uninterrupted_one(
    base: Path, tmp_path: Path
) -> None:
    toml, steps = write_tuning(tmp_path, base, "pivotal"), "train.steps=6"
    ready()
    began = time.monotonic()
    assert ended(start(toml, tmp_path / "whole", steps)) == 0, said(tmp_path / "whole")
    whole = time.monotonic() - began
    drawn, killed = random.Random(), 0
    for _ in range(2):
        process = start(toml, tmp_path / "killed", steps)
        process.join(drawn.uniform(whole / 4, whole * 3 / 4))
        killed += kill(process)
    assert killed, "each run was faster than its kill"
    run_training(load_run_config(toml, [steps]), tmp_path / "killed")
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_kill_during_a_save_leaves_the_checkpoint_before(base: Path, tmp_path: Path) -> None:
    toml, steps = write_tuning(tmp_path, base, "dreambooth"), "train.steps=7"
    process = start(toml, tmp_path / "killed", steps, prepare=die_in_third_save)
    assert ended(process) == -signal.SIGKILL, said(tmp_path / "killed")
    saves = tmp_path / "killed" / "checkpoints"
    assert [*saves.glob(".step-00000006.*.part/weights.safetensors")]
    assert newest(tmp_path / "killed").step == 4

    run_training(load_run_config(toml, [steps]), tmp_path / "killed")
    assert [path.name for path in recover_and_list_checkpoint_folders(saves)] == [
        "step-00000007",
        "step-00000006",
    ]
    assert not [*saves.glob(".*")]
    run_training(load_run_config(toml, [steps]), tmp_path / "whole")
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_signal_lets_a_fine_tune_save_and_exit_0_and_a_second_one_ends_it_at_once(
    base: Path, tmp_path: Path
) -> None:
    toml = write_tuning(tmp_path, base, "pivotal")
    out, endless = tmp_path / "out", ("train.steps=100000", "train.checkpoint_every=100000")
    process = start(toml, out, *endless, *NO_CACHE)
    wait_for_step(out, 2, process)
    process.terminate()
    assert ended(process) == 0, said(out)
    assert "the same command goes on from here" in said(out)
    stopped = newest(out).step
    assert stopped >= 2

    process = start(toml, out, *endless, *NO_CACHE, prepare=save_forever)
    wait_for_step(out, stopped + 1, process)
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    assert ended(process, 20) == -signal.SIGTERM
    assert newest(out).step == stopped


def save_forever() -> None:
    """Let every save hang, as on a disk that does not answer."""
    from train import checkpoint

    checkpoint.save_file = lambda *_: time.sleep(100)  # type: ignore[assignment]


@pytest.mark.slow
def test_a_second_run_on_the_folder_of_a_fine_tune_is_refused(base: Path, tmp_path: Path) -> None:
    toml = write_tuning(tmp_path, base, "words")
    with locking_folder(tmp_path / "out"):
        assert ended(start(toml, tmp_path / "out")) == 5
    assert "OutputError: Another run is writing to" in said(tmp_path / "out")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", [*METHODS, *OTHERWISE, "denoiser", "two encoders"])
def test_fifty_kills_at_random_moments_change_nothing(
    method: str, base: Path, base_xl: Path, tmp_path: Path
) -> None:
    settings = ["train.steps=150", *OTHERWISE.get(method, ())]
    if method == "denoiser":
        toml = write_run(tmp_path)
    elif method == "two encoders":
        toml = write_tuning(tmp_path, base_xl, "pivotal", OF_TWO_ENCODERS)
    else:
        toml = write_tuning(tmp_path, base, method if method in METHODS else "pivotal")
    ready()
    lasted = []
    for name, steps in (("short", ("train.steps=3",)), ("whole", ())):
        began = time.monotonic()
        process = start(toml, tmp_path / name, *settings, *steps)
        assert ended(process, 600) == 0, said(tmp_path / name)
        lasted.append(time.monotonic() - began)
    short, whole = lasted

    drawn, kills, saved = random.Random(), 0, set[int]()
    out = tmp_path / "killed0"
    while kills < 50:
        process = start(toml, out, *settings)
        process.join(drawn.uniform(short / 4, short + (whole - short) / 5))
        if process.exitcode is None:
            kills += kill(process)
        if process.exitcode == 0:  # finished in spite of it all: begin anew
            assert_same_end(tmp_path / "whole", out)
            out = tmp_path / f"killed{kills}"
        else:
            assert process.exitcode == -signal.SIGKILL, said(out)
        if recover_and_list_checkpoint_folders(out / "checkpoints"):
            saved.add(newest(out).step)
    assert ended(start(toml, out, *settings), 600) == 0, said(out)
    assert_same_end(tmp_path / "whole", out)
    assert len(saved) > 3
