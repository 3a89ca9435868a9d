"""Real servers in processes of their own, for tests that speak to them as clients do."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds that a server may take to load its model on a busy machine."""


@dataclass
class RunningServer:
    """Server in a process of its own: its address, its folder, and a client."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

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
    command = [sys.executable, "-m", "t2i.cli", "serve", "--port", "0", "--folder", str(folder)]
    if token is not None:
        command += ["--token", token]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
    )
    log: list[str] = []
    try:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            log.append(line)
            if line.startswith("http"):
                break
        assert line.startswith("http"), "".join(log)
        reader = threading.Thread(target=lambda: log.extend(process.stdout or ()), daemon=True)
        reader.start()
        address = line.strip().partition("?")[0].rstrip("/")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        server = RunningServer(process, address, folder, headers, log)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


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
