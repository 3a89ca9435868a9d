"""How a server fares with many jobs that wait and many clients that listen.

Jobs are queued as fast as the full queue takes them. Meanwhile each client listens to one job after
another until its last event, and a process of its own asks for the health of the server. Memory is
that of the server and of its workers after each job; its slope is fitted to the second half.
"""

import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import httpx
import numpy as np
import psutil

PROMPT = "a red apple to the left of a cat"
MEBIBYTE = 1 << 20
HEALTH_INTERVAL = 0.05
"""Seconds between two questions for the health of the server."""
HEALTH_LIMIT = 0.1
"""Seconds in which 99 of 100 have to be answered."""
FINAL = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs in all, those that wait together, clients that listen, and steps of a picture."""

    jobs: int = 500
    queued: int = 200
    listeners: int = 50
    steps: int = 1


@dataclass(slots=True)
class LoadRun:
    """One run of a load: the jobs so far, what listeners heard, and the memory after each job."""

    address: str
    load: Load
    ids: list[str] = field(default_factory=list)
    most_waiting: int = 0
    most_listening: int = 0
    heard: dict[str, str] = field(default_factory=dict)
    memory: list[tuple[float, float]] = field(default_factory=list)
    _listening: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def submit_all(self) -> None:
        """Queue every job, waiting where the queue is full."""
        with self._connect() as api:
            for seed in range(self.load.jobs):
                request = {"prompt": PROMPT, "steps": self.load.steps, "seed": seed}
                body = {"kind": "generate", "request": request}
                while (answer := api.post("/jobs", json=body)).status_code == 429:
                    time.sleep(0.1)
                self.ids.append(answer.raise_for_status().json()["id"])
                self.most_waiting = max(self.most_waiting, len(self.ids) - len(self.memory))

    def listen(self, first: int) -> None:
        """Listen to every n-th job until its last event, where n is the number of listeners."""
        for number in range(first, self.load.jobs, self.load.listeners):
            while len(self.ids) <= number:
                time.sleep(0.05)
            job_id = self.ids[number]
            with (
                self._connect() as api,
                api.stream("GET", f"/jobs/{job_id}/events") as events,
            ):
                self._count(1)
                for line in events.iter_lines():
                    if line.startswith("data: ") and (state := json.loads(line[6:]).get("state")):
                        self.heard[job_id] = state
                self._count(-1)

    def follow(self, process: psutil.Process) -> None:
        """Wait for one job after the other, and look at the memory after each."""
        with self._connect() as api:
            for number in range(self.load.jobs):
                while len(self.ids) <= number or (
                    api.get(f"/jobs/{self.ids[number]}").raise_for_status().json()["state"]
                    not in FINAL
                ):
                    time.sleep(0.02)
                self.memory.append(measure_memory(process))

    def count_pictures(self) -> int:
        """Count the jobs that are done with the picture of their seed, each under its own name."""
        with self._connect() as api:
            return sum(
                api.get(f"/jobs/{job_id}").json()["state"] == "done"
                and api.get(f"/jobs/{job_id}/files/seed-{seed}.png").content[:4] == b"\x89PNG"
                for seed, job_id in enumerate(self.ids)
            )

    def _connect(self) -> httpx.Client:
        # Without certificates: reading them for every client takes the machine's time.
        return httpx.Client(base_url=f"{self.address}/api/v1", timeout=None, verify=False)

    def _count(self, change: int) -> None:
        with self._lock:
            self._listening += change
            self.most_listening = max(self.most_listening, self._listening)


def measure_load(address: str, process: psutil.Process, load: Load) -> dict[str, Any]:
    """Put a load on a server; return what was lost, its health, and its memory."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    probe = multiprocessing.get_context("spawn").Process(
        target=probe_health, args=(address, theirs), daemon=True
    )
    probe.start()
    ours.recv()  # it has begun
    run = LoadRun(address, load)
    start = time.perf_counter()
    with ThreadPoolExecutor(load.listeners + 2) as threads:
        tasks = [threads.submit(run.listen, number) for number in range(load.listeners)]
        tasks += [threads.submit(run.submit_all), threads.submit(run.follow, process)]
        for task in tasks:
            task.result()
    seconds = time.perf_counter() - start
    ours.send("stop")
    health = ours.recv()
    probe.join()
    done = run.count_pictures()
    heard = list(run.heard.values()).count("done")
    server, workers = zip(*run.memory, strict=True)
    p99 = float(np.quantile(health, 0.99))
    return {
        "jobs": load.jobs,
        "most_waiting": run.most_waiting,
        "most_listening": run.most_listening,
        "done_with_picture": done,
        "ends_heard": heard,
        "nothing_lost": done == heard == load.jobs == len(set(run.ids)),
        "seconds": seconds,
        "health_asked": len(health),
        "health_p50_s": float(np.quantile(health, 0.5)),
        "health_p99_s": p99,
        "health_max_s": max(health),
        "health_in_time": p99 < HEALTH_LIMIT,
        "server_mib": server[-1],
        "worker_mib": workers[-1],
        "server_kib_a_job": fit_slope(server) * 1024,
        "worker_kib_a_job": fit_slope(workers) * 1024,
    }


def probe_health(address: str, connection: Connection) -> None:
    """Ask for the health of a server until the connection says to stop; send the seconds of each
    answer. In a process of its own, which waits for no other client.
    """
    seconds: list[float] = []
    with httpx.Client(timeout=60) as client:
        for number in itertools.count():
            start = time.perf_counter()
            client.get(f"{address}/api/v1/health").raise_for_status()
            seconds.append(time.perf_counter() - start)
            if number == 0:
                connection.send("ready")
            if connection.poll(HEALTH_INTERVAL):
                break
    connection.send(seconds)


def measure_memory(process: psutil.Process) -> tuple[float, float]:
    """Return MiB of the server, and of its workers together."""
    own = process.memory_info().rss / MEBIBYTE
    children = process.children(recursive=True)
    return own, sum(child.memory_info().rss for child in children) / MEBIBYTE


def fit_slope(values: Sequence[float]) -> float:
    """Return the growth from one value to the next, fitted to the second half of the values."""
    half = values[len(values) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 2 else 0.0
