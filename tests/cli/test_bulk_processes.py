"""`t2i generate --prompts` on several processes, killed, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.cli.command import files
from tests.train import apart

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NUM = 16
OPTIONS = ("--steps", "12", "--seed", "7")
TWO = ("--num_processes", "2", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, one of them too much for the model; samplers that draw noise; own seeds."""
    folder = tmp_path_factory.mktemp("bulk")
    lines: list[dict[str, object]] = [{"prompt": f"a cat {number}"} for number in range(NUM)]
    lines[3] |= {"size": "30x32"}
    lines[4] |= {"sampler": "euler a", "seed": 1}
    lines[5] |= {"sampler": "dpm++ 2m karras"}
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, model: Path) -> Path:
    """What one process makes that nobody disturbs."""
    apart.ready()
    process = apart.start_command(words(model, "whole"), folder, folder / "whole.said")
    assert apart.ended(process, 500) == 1  # for the one prompt that fails
    return folder / "whole"


def words(model: Path, out: str) -> list[str]:
    """Of the command line, after `t2i`."""
    return ["generate", "--prompts", "p.jsonl", "--out", out, *OPTIONS, "--model", str(model)]


def start(folder: Path, model: Path, repo: Path, out: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "t2i.cli", *words(model, out)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(out: Path, number: int, process: subprocess.Popen[str] | BaseProcess) -> None:
    while has_not_ended(process):
        parts = list(out.glob("index.*.jsonl"))
        if sum(part.read_bytes().count(b"\n") for part in parts) >= number:
            return
        time.sleep(0.02)
    pytest.fail(f"it ended before {number} pictures")


def has_not_ended(process: subprocess.Popen[str] | BaseProcess) -> bool:
    if isinstance(process, BaseProcess):
        return process.exitcode is None
    return process.poll() is None


def assert_same(out: Path, whole: Path) -> None:
    assert files(out) == files(whole)
    for path in whole.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert [outcome(line) for line in (out / "index.jsonl").read_text().splitlines()] == [
        outcome(line) for line in (whole / "index.jsonl").read_text().splitlines()
    ]


def outcome(line: str) -> dict[str, object]:
    entry = json.loads(line)
    return {key: value for key, value in entry.items() if key not in ("seconds", "time")}


def test_two_processes_make_the_pictures_of_one(folder: Path, model: Path, whole: Path) -> None:
    log, given = folder / "two.said", words(model, "two")
    arguments = (*TWO, "--dynamo_backend", "no", "-m", "t2i.cli", *given)
    command, told = apart.told_by_accelerate(*arguments)
    assert command[1:] == ["-m", "t2i.cli", *given]
    both = [
        apart.start_command(given, folder, log, told | own)
        for own in apart.launched(2, apart.free_port())
    ]
    wait_for_lines(folder / "two", 3, both[0])
    assert {path.name for path in (folder / "two").glob("index.*.jsonl")} <= {
        "index.0.jsonl",
        "index.1.jsonl",
    }
    codes, said = [apart.ended(process, 500) for process in both], log.read_text()
    assert codes == [1, 0], said  # the main process tells of the one that fails
    assert said.count(f"{NUM - 1} made, 0 made before, 1 failed, of {NUM}.") == 1, said
    assert_same(folder / "two", whole)


def test_a_start_after_a_kill_ends_as_the_undisturbed_one(
    folder: Path, model: Path, whole: Path
) -> None:
    out, log = folder / "killed", folder / "killed.said"
    process = apart.start_command(words(model, "killed"), folder, log)
    wait_for_lines(out, 6, process)
    process.kill()
    assert apart.ended(process) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 0 < len(before) < NUM - 1
    both = [  # another number of processes
        apart.start_command(words(model, "killed"), folder, log, own)
        for own in apart.launched(2, apart.free_port())
    ]
    codes = [apart.ended(process, 500) for process in both]
    assert codes == [1, 0], log.read_text()  # the main process tells of the one that fails
    assert "1 failed" in log.read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same(out, whole)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_finished(
    folder: Path, model: Path, repo: Path, whole: Path, number: signal.Signals
) -> None:
    out = folder / number.name
    process = start(folder, model, repo, out.name)
    wait_for_lines(out, 6, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 128 + number, said
    assert "Interrupted: " in said
    assert "Traceback" not in said
    made = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert 6 <= len(made) < NUM
    assert {entry["file"] for entry in made if "file" in entry} == {
        path.name for path in out.glob("*.png")
    }
    for path in out.glob("*.png"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    assert not list(out.glob(".*"))


@pytest.mark.long
def test_the_slurm_script_shares_the_work_among_machines(
    folder: Path, model: Path, repo: Path, whole: Path
) -> None:
    """Two machines, both this one; of Slurm only the two commands are played that it calls."""
    commands = folder / "bin"
    commands.mkdir()
    played = {
        "scontrol": "echo 127.0.0.1",
        "srun": 'shift; SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; code=$?; wait; exit $code',
        "accelerate": f'exec "{sys.executable}" -m accelerate.commands.accelerate_cli "$@"',
    }
    for name, code in played.items():
        (commands / name).write_text(f"#!/bin/bash\n{code}\n")
        (commands / name).chmod(0o755)
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "here", "PORT": "29517"}
    done = subprocess.run(
        ["bash", repo / "configs/bulk/slurm.sh", "p.jsonl", "many", *OPTIONS, "--model", model],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
        | {"PATH": f"{commands}:{os.environ['PATH']}", **slurm},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # for the one prompt that fails
    assert f"{NUM - 1} made, 0 made before, 1 failed, of {NUM}." in done.stderr
    assert_same(folder / "many", whole)
