"""Real servers in processes of their own, for tests that speak to them as clients do."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from t2i.server.worker import worker_pool
from tests.train import apart

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds that a server may take to load its model on a busy machine."""


class ForkedProcess:
    """A process from the fork server, with the methods of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess) -> None:
        assert process.pid is not None
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s"
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()


@dataclass
class RunningServer:
    """Server in a process of its own: its address, its folder, and a client."""

    process: subprocess.Popen[bytes] | ForkedProcess
    url: str
    folder: Path
    log_path: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> list[str]:
        """The lines that it has printed so far."""
        return self.log_path.read_text().splitlines(keepends=True)

    @property
    def client(self) -> httpx.Client:
        # Without certificates: reading them takes longer than an answer, and nothing is encrypted.
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60, verify=False)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        with self.client as client:
            return client.post(path, **arguments)

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        with self.client as client:
            return client.get(path, **arguments)

    def delete(self, path: str) -> httpx.Response:
        with self.client as client:
            return client.delete(path)

    def submit(self, kind: str, **request: Any) -> dict[str, Any]:
        answer = self.post("/api/v1/jobs", json={"kind": kind, "request": request})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def wait(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a job is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = self.get(f"/api/v1/jobs/{job_id}").json()
            if job["state"] in ("done", "failed", "cancelled"):
                return dict(job)
            time.sleep(0.05)
        raise AssertionError(f"the job is still {job['state']}: {job}")

    def run(self, kind: str, **request: Any) -> dict[str, Any]:
        job = self.wait(self.submit(kind, **request)["id"])
        assert job["state"] == "done", job["error"]
        return job

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self.post("/api/v1/uploads", files={"file": (path.name, file)})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def file(self, job: Mapping[str, Any], name: str) -> bytes:
        answer = self.get(f"/api/v1/jobs/{job['id']}/files/{name}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, "".join(self.log)
            try:
                if httpx.get(f"{self.url}/api/v1/health", timeout=10, verify=False).json()["ready"]:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no worker is ready: {''.join(self.log)}")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def start_server(
    folder: Path,
    *options: str,
    token: str | None = None,
    ready: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """Run `t2i serve` on a free port of the loopback until the block ends."""
    log_path = folder.with_name(f"{folder.name}.said")
    words = serve_words(folder, *options) + ([] if token is None else ["--token", token])
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "t2i.cli", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPO,
            env={**os.environ, **fixed, **(environment or {})},
        )
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with ending(RunningServer(process, "", folder, log_path, headers), ready) as server:
        yield server


@contextmanager
def fork_server(folder: Path, *options: str, ready: bool = True) -> Iterator[RunningServer]:
    """As `start_server`, from a process that has imported everything, and so its workers.

    For tests that start servers again and again: a start costs one second in place of nine.
    """
    log_path = folder.with_name(f"{folder.name}.said")
    log_path.write_text("")
    given = (serve_words(folder, *options), log_path)
    process = apart.CONTEXT.Process(target=serve_forked, args=given)
    process.start()
    with ending(RunningServer(ForkedProcess(process), "", folder, log_path), ready) as server:
        yield server


def serve_forked(words: list[str], log_path: Path) -> None:
    worker_pool.CONTEXT = apart.CONTEXT  # type: ignore[assignment]
    # This process knows the fork server that it came from, but not its process id, and so would
    # start another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    apart.command(words, REPO, log_path, {})


def find_worker(pid: int) -> psutil.Process:
    """Of a forked server: the one that the fork server has started since then."""
    server = psutil.Process(pid)
    siblings = server.parent().children()
    (worker,) = (one for one in siblings if one.create_time() > server.create_time())
    return worker


def serve_words(folder: Path, *options: str) -> list[str]:
    return ["serve", "--port", "0", "--folder", str(folder), *options]


@contextmanager
def ending(server: RunningServer, ready: bool) -> Iterator[RunningServer]:
    """Wait for the address of a server, and kill it at the end of the block."""
    try:
        server.url = wait_for_address(server)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


def wait_for_address(server: RunningServer) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended = server.process.poll() is not None
        for line in server.log:
            if line.startswith("http") and line.endswith("\n"):
                return line.strip().partition("?")[0].rstrip("/")
        assert not ended, "".join(server.log)
        time.sleep(0.05)
    raise AssertionError(f"no address: {''.join(server.log)}")


ResultT = TypeVar("ResultT")


def run_async(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to its end in a thread of its own.

    The browser's driver keeps an event loop running in the thread of the tests.
    """
    return run_in_thread(lambda: asyncio.run(coroutine))


def run_in_thread(action: Callable[[], ResultT]) -> ResultT:
    """Run an action in a thread of its own, which has no event loop of the browser's driver."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(action).result()


def wait_for_job(address: str, kind: str, name: str, request: Mapping[str, Any]) -> bytes:
    """Run a job on a server at an address, and return a file of its result."""
    with httpx.Client(base_url=address.rstrip("/"), timeout=60) as client:
        answer = client.post("/api/v1/jobs", json={"kind": kind, "request": request})
        assert answer.status_code == 202, answer.text
        path = f"/api/v1/jobs/{answer.json()['id']}"
        end = time.monotonic() + PATIENCE
        while (job := client.get(path).json())["state"] in ("queued", "running"):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert job["state"] == "done", job["error"]
        return client.get(f"{path}/files/{name}").content
