"""Runs in processes of their own, forked from one that has imported everything: they start at once.

So there is time to kill many of them.
"""

import argparse
import faulthandler
import gc
import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from safetensors.torch import save_file

from t2i.errors import T2IError
from train import checkpoint
from train.__main__ import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "train.loop",
        "pipelines.text_to_image",
        "t2i.cli.bulk.bulk",
        "t2i.server.running",
        "t2i.server.worker.job_worker",
        "tests.train.apart",
    ]
)
MINUTE = 60


def start(
    config: Path,
    out: Path,
    *overrides: str,
    prepare: Callable[[], object] | None = None,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """`python -m train config --out out`; what it says goes to `said(out)`."""
    arguments = [str(config), "--out", str(out), *(f"--set={one}" for one in overrides)]
    return start_program(main, arguments, log_of(out), prepare, environment)


def start_program(
    program: Callable[[list[str]], object],
    arguments: list[str],
    log: Path,
    prepare: Callable[[], object] | None = None,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """A process that calls `program` with its arguments; what it says goes to `log`."""
    given = (program, arguments, log, prepare, environment or {})
    process = CONTEXT.Process(target=act, args=given, daemon=True)
    process.start()
    return process


def act(
    program: Callable[[list[str]], object],
    arguments: list[str],
    log: Path,
    prepare: Callable[[], object] | None,
    environment: dict[str, str],
) -> None:
    """In the process: as `python -m train` does."""
    gc.freeze()  # what was imported before the fork is shared, and stays
    os.environ.update(environment)
    speak_into(log)
    if prepare is not None:
        prepare()
    try:
        program(arguments)
    except T2IError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run_train_module(words: list[str]) -> None:
    """In the process: what `python -m train words...` does, to its end."""
    sys.argv[1:] = words
    sys.modules.pop("train.__main__")
    runpy.run_module("train", run_name="__main__", alter_sys=True)


def start_command(
    words: list[str], folder: Path, log: Path, environment: dict[str, str] | None = None
) -> BaseProcess:
    """`t2i words ...` in `folder`; what it says goes to `log`."""
    arguments = (words, folder, log, environment or {})
    process = CONTEXT.Process(target=command, args=arguments, daemon=True)
    process.start()
    return process


def command(words: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """In the process: as `t2i` does."""
    from t2i.cli import main

    os.environ.update(environment)
    os.chdir(folder)
    speak_into(log)
    torch.set_num_threads(1)
    sys.exit(main(words))


def speak_into(log: Path) -> None:
    """Let all that this process says go to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable(file=2)  # where a process was when native code ended it


def ready() -> None:
    """Let everything be imported, so that the next run starts at once."""
    process = CONTEXT.Process(target=nothing, daemon=True)
    process.start()
    ended(process, 3 * MINUTE)


def nothing() -> None:
    pass


def ended(process: BaseProcess, seconds: float = MINUTE) -> int:
    """Its exit status."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {seconds} s")
    return process.exitcode


def log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.said")


def said(out: Path) -> str:
    return log_of(out).read_text() if log_of(out).exists() else ""


def use_one_thread() -> None:
    torch.set_num_threads(1)


def start_together(
    config: Path,
    out: Path,
    *overrides: str,
    processes: int = 2,
    port: int,
    prepare: Callable[[], object] = use_one_thread,
    environment: dict[str, str] | None = None,
) -> list[BaseProcess]:
    """As `torchrun --nproc_per_node=2 -m train config --out out`, on CPUs."""
    return [
        start(config, out, *overrides, prepare=prepare, environment={**(environment or {}), **own})
        for own in launched(processes, port)
    ]


def launched(processes: int, port: int) -> list[dict[str, str]]:
    """The variables by which a launcher tells each process of its place."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class Launch(BaseException):
    """`accelerate launch` at the moment when it would start its processes."""


def told_by_accelerate(*words: str) -> tuple[list[str], dict[str, str]]:
    """What `accelerate launch words...` would run, and the variables that it adds.

    For several processes it is torch's launcher which starts them, with a rank and a place to meet:
    see `launched`.
    """
    before = dict(os.environ)
    told: dict[str, str] = {}
    command: list[str] = []

    def run(launched: argparse.Namespace) -> NoReturn:
        module = ["-m"] if launched.module else []
        command[:] = [sys.executable, *module, launched.training_script]
        command.extend(launched.training_script_args)
        told.update(os.environ)
        raise Launch

    def popen(words: list[str], env: dict[str, str]) -> NoReturn:
        command[:] = words
        told.update(env)
        raise Launch

    with (
        patch.dict(os.environ),
        patch("torch.distributed.run.run", run),
        patch("accelerate.commands.launch.subprocess.Popen", popen),
        suppress(Launch),
    ):
        launch_command(launch_command_parser().parse_args(words))
    assert command
    return command, {name: value for name, value in told.items() if before.get(name) != value}


def by_two(
    toml: Path,
    out: Path,
    *overrides: str,
    prepare: Callable[[], object] = use_one_thread,
    environment: dict[str, str] | None = None,
) -> list[int]:
    """The exit statuses of two processes that train together."""
    ready()
    processes = start_together(
        toml, out, *overrides, port=free_port(), prepare=prepare, environment=environment
    )
    return [ended(process, 180) for process in processes]


def free_port() -> int:
    """A free port below those that the system gives to others, which would take it before the
    processes have started.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def die_in_third_save() -> None:
    torch.set_num_threads(1)
    """Kill this process with a checkpoint half written: one file whole, the next one cut short."""
    files = 0

    def save_or_die(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal files
        files += 1
        save_file(tensors, path)
        if files == 2 * 3 + 2:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save_or_die  # type: ignore[assignment]
