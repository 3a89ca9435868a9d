"""Ends of a server: killed, told to stop, told twice. Nothing is lost or doubled."""

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from t2i.server.jobs.store import JobStore
from tests.server.servers import RunningServer, fork_server, run_async, start_server

PROMPT = "a red apple to the left of a cat"
SMALL = {"prompt": PROMPT, "width": 64, "height": 64}


def wait_until_running(server: RunningServer, job_id: str, step: int = 2) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        progress = server.get(f"/api/v1/jobs/{job_id}").json()["progress"]
        if progress is not None and progress["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError("the job has not begun")


def states(folder: Path) -> list[str]:
    store = JobStore(folder / "jobs.sqlite")
    try:
        return [job.state for job in reversed(store.list_newest("", 100, None))]
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_it_goes_on_and_told_to_stop_it_finishes_what_runs(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    with fork_server(folder) as server:
        done = server.run("generate", **SMALL, steps=2)
        running = server.submit("generate", **SMALL, steps=30)
        waiting = server.submit("generate", **SMALL, steps=2)
        wait_until_running(server, running["id"])
        server.process.kill()
        server.process.wait()
    assert states(folder) == ["done", "running", "queued"]

    with fork_server(folder) as server:
        again = server.wait(running["id"])
        assert again["state"] == "done"
        assert again["seeds"] == running["seeds"]
        assert server.wait(waiting["id"])["state"] == "done"
        assert len(server.get("/api/v1/jobs").json()["jobs"]) == 3
        assert server.file(done, done["result"]["files"][0]["name"])[:4] == b"\x89PNG"
        seed = running["seeds"][0]
        same = server.run("generate", **SMALL, steps=30, seed=seed)
        name = f"seed-{seed}.png"
        assert server.file(again, name) == server.file(same, name)

        # SIGTERM: what runs is finished, what waits stays, listeners hear the end
        last = server.submit("generate", **SMALL, steps=30)
        server.submit("generate", **SMALL, steps=2)
        wait_until_running(server, last["id"])
        with server.client as client:
            with client.stream("GET", f"/api/v1/jobs/{last['id']}/events") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("id: ")
                server.process.send_signal(signal.SIGTERM)
                heard = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        assert heard[-1]["state"] == "done"
        assert server.process.wait(60) == 0
    # What waits is drawn at the next start, as the one that waited above.
    assert states(folder) == ["done"] * 5 + ["queued"]
    assert PROMPT not in "".join(server.log)


def interrupt_twice(server: RunningServer) -> None:
    """Press Ctrl-C twice while it draws: it does not wait, and what ran stays in the queue."""
    long = server.submit("generate", prompt=PROMPT, steps=500)
    wait_until_running(server, long["id"])
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    answer = server.post("/api/v1/jobs", json={"kind": "generate", "request": {"prompt": "a"}})
    assert answer.status_code == 503
    assert server.process.poll() is None
    started = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert time.monotonic() - started < 20
    assert "Ctrl-C again stops at once" in "".join(server.log)
    with pytest.raises(httpx.TransportError):
        server.get("/api/v1/health")
    assert states(server.folder)[-1] in ("queued", "running")


async def post(port: int, body: dict[str, object]) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own: a client's pool takes longer than the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    answer = await reader.read()
    writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_thousand_requests_at_once_are_all_answered_and_what_was_taken_is_drawn(
    tmp_path: Path,
) -> None:
    bodies = (
        {"kind": "generate", "request": {"prompt": PROMPT, "steps": 1}},
        {"kind": "generate", "request": {"prompt": PROMPT, "steps": 0}},
    )

    async def ask(port: int) -> list[tuple[int, dict[str, Any]]]:
        return list(await asyncio.gather(*(post(port, bodies[n % 2]) for n in range(2000))))

    # As a user types it, with workers that start as the product starts them.
    with start_server(tmp_path / "served", "--max-queued", "20", ready=False) as server:
        answers = run_async(ask(int(server.url.rpartition(":")[2])))
        counted = Counter(status for status, _ in answers)
        assert counted.keys() == {202, 422, 429}
        assert counted[422] == 1000
        assert counted[202] >= 20
        ids = {answer["id"] for status, answer in answers if status == 202}
        assert len(ids) == counted[202]
        assert all("message" in answer["error"] for status, answer in answers if status != 202)
        assert server.get("/api/v1/health").status_code == 200
        assert server.wait(min(ids), 300)["state"] == "done"
    store = JobStore(tmp_path / "served" / "jobs.sqlite")
    assert store.list_identifiers() == ids
    store.close()
