"""What is kept: over an end of the server, up to an age and a size, and on a full disk."""

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2i.errors import DataError, OutputError
from t2i.server.jobs.job import (
    Job,
    JobFailure,
    JobProgress,
    QueueFullError,
    ServerStoppingError,
    StorageFullError,
)
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.store import MIGRATIONS, JobStore
from t2i.server.worker.worker_pool import Worker
from tests.server.conftest import Idle
from tests.server.jobs_alone import CAT, ServerJobs, finish, reopened
from tests.server.servers import run_async


def test_a_job_keeps_its_seed_its_place_and_its_result_over_an_end(jobs: ServerJobs) -> None:
    first, second = (jobs.service.submit("generate", CAT, "me") for _ in range(2))
    finish(jobs, first)
    running = jobs.dispatcher.take_next(1)
    assert running is not None
    jobs = reopened(jobs)
    try:
        done, again = jobs.service.get(first.id, "me"), jobs.service.get(second.id, "me")
        assert done.result is not None
        assert done.result.data == {"a": 1}
        assert jobs.service.find_result_file(first.id, "me", "seed-1.png").stat().st_size == 1000
        assert again.state == "queued"
        assert again.seeds == second.seeds
        assert [job.id for job in jobs.service.list("me")] == [second.id, first.id]
        assert jobs.service.list("me", before=second.id) == [done]
        finish(jobs, again)
    finally:
        jobs.state.close()


def test_a_job_ends_once(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    finish(jobs, job)
    jobs.dispatcher.record_failure(job, JobFailure("X", "y"))
    assert jobs.service.get(job.id, "").state == "done"
    assert jobs.service.cancel(job.id, "").state == "done"


def test_a_full_queue_says_when_to_come_again(jobs: ServerJobs) -> None:
    for _ in range(3):
        jobs.service.submit("generate", CAT, "")
    with pytest.raises(QueueFullError, match="3 jobs wait already: try again in 5 seconds") as full:
        jobs.service.submit("generate", CAT, "")
    assert full.value.retry_after_s == 5
    assert len(jobs.service.list("")) == 3
    assert len(list(jobs.state.folder.iterdir())) == 0


def test_a_full_queue_is_answered_with_429_and_retry_after(idle: Idle) -> None:
    client = idle(max_queued=1)
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    assert client.post("/api/v1/jobs", json=job).status_code == 202
    answer = client.post("/api/v1/jobs", json=job)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "5"


def test_a_full_disk_refuses_new_jobs_and_loses_none(tmp_path: Path, idle: Idle) -> None:
    folder = tmp_path / "served"
    jobs = ServerJobs(folder=folder)
    job = jobs.service.submit("generate", CAT, "")
    jobs.state.close()
    client = idle(folder=folder, min_free_bytes=1 << 62)
    body = {"kind": "generate", "request": {"prompt": "a cat"}}
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 507
    assert "new jobs need" in answer.json()["error"]["message"]
    assert client.post("/api/v1/uploads", files={"file": b"x"}).status_code == 507
    state = client.app.state.server  # type: ignore[attr-defined]
    assert JobDispatcher(state).take_next(0.01) is None
    assert JobService(state).get(job.id, "").state == "queued"


def test_a_job_whose_result_finds_no_room_is_tried_again(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2i.server.jobs.job_dispatcher.FULL_DISK_PAUSE_SECONDS", 0)
    job = jobs.service.submit("generate", CAT, "")
    failure = JobFailure("OutputError", "The disk is full")
    for _ in range(5):
        taken = jobs.dispatcher.take_next(1)
        assert taken is not None
        jobs.dispatcher.record_failure(taken, failure, disk_full=True)
        assert jobs.service.get(job.id, "").state == "queued"
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    jobs.dispatcher.record_failure(taken, failure, disk_full=True)
    assert jobs.service.get(job.id, "").error == failure


def test_a_full_disk_of_the_database_is_told(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.state.store._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageFullError, match="The disk is full"):
        jobs.state.store.insert_upload_row(("a", "", "n" * 1_000_000, ".png", 1, 1, 0.0, 1))
    jobs.state.store._database.execute("PRAGMA max_page_count = 1000000")
    assert jobs.service.list("") == []


def test_a_folder_serves_one_server(jobs: ServerJobs) -> None:
    with pytest.raises(OutputError, match="Another run is writing"):
        ServerJobs(folder=jobs.state.settings.folder)


def test_a_database_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    old = sqlite3.connect(path)
    old.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
    old.execute(
        "INSERT INTO jobs (id, kind, state, owner, request, seeds, created) "
        "VALUES ('a', 'generate', 'queued', '', '{\"prompt\": \"a cat\"}', '[1]', 2.0)"
    )
    old.commit()
    old.close()
    store = JobStore(path)
    assert store.get("a").seeds == (1,)
    assert store.get_upload("b") is None
    store.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"no database" * 100), "is no database of jobs"),
        (
            lambda path: sqlite3.connect(path).executescript("PRAGMA user_version = 99;"),
            "has version 99, this t2i reads up to",
        ),
    ],
)
def test_another_database_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "jobs.sqlite"
    make(path)
    with pytest.raises(DataError, match=reason):
        JobStore(path)


def test_a_server_that_drains_takes_no_jobs_and_gives_none(jobs: ServerJobs) -> None:
    jobs.service.submit("generate", CAT, "")
    jobs.state.begin_draining()
    with pytest.raises(ServerStoppingError, match="takes no new jobs"):
        jobs.service.submit("generate", CAT, "")
    assert jobs.dispatcher.take_next(0.01) is None


def test_listeners_hear_the_past_then_what_comes_and_nothing_piles_up(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    for step in range(1000):
        jobs.dispatcher.send_progress_to_listeners(job.id, JobProgress(step, 1000))
        jobs.dispatcher.send_preview_to_listeners(job.id, step, "png")

    async def listen() -> list[Any]:
        heard = []
        async for event in jobs.service.events(job.id, ""):
            heard.append(event)
            if event.event == "preview":
                jobs.dispatcher.record_failure(taken, JobFailure("GenerationError", "why"))
        return heard

    heard = run_async(listen())
    assert [event.event for event in heard] == ["state", "state", "progress", "preview", "state"]
    assert heard[2].data["step"] == heard[3].data["step"] == 999
    assert heard[-1].data["error"] == {"type": "GenerationError", "message": "why"}
    assert jobs.state.events._logs == {}
    assert jobs.state.events._listeners == {}


def test_news_of_a_running_job_reach_its_listeners_without_the_database(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.service.submit("generate", CAT, "")
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    jobs.dispatcher.send_progress_to_listeners(job.id, JobProgress(0, 50))
    reads = []
    get = jobs.state.store.get

    def count(job_id: str) -> Job:
        reads.append(job_id)
        return get(job_id)

    monkeypatch.setattr(jobs.state.store, "get", count)

    async def listen() -> int:
        steps = 0
        async for event in jobs.service.events(job.id, ""):
            if event.event != "progress":
                continue
            steps += 1
            if steps == 50:
                return len(reads)
            jobs.dispatcher.send_progress_to_listeners(job.id, JobProgress(steps, 50))
        return -1

    assert run_async(listen()) == 1  # whose job it is


def test_waiting_ends_with_the_job_the_time_or_the_server(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    assert run_async(jobs.service.wait(job.id, "", 0.01)).state == "queued"

    async def cancel_meanwhile() -> Job:
        waiting = asyncio.create_task(jobs.service.wait(job.id, "", 5))
        await asyncio.sleep(0.01)
        jobs.service.cancel(job.id, "")
        return await waiting

    assert run_async(cancel_meanwhile()).state == "cancelled"
    other = jobs.service.submit("generate", CAT, "")
    jobs.state.events.close()
    with pytest.raises(ServerStoppingError, match="the job is kept"):
        run_async(jobs.service.wait(other.id, ""))


def test_a_job_that_this_release_cannot_read_fails_and_the_next_one_runs(
    jobs: ServerJobs,
) -> None:
    old = jobs.service.submit("generate", CAT, "me")
    request = {"prompt": "a cat", "field_of_an_older_release": 1}
    with sqlite3.connect(jobs.state.settings.folder / "jobs.sqlite") as database:
        database.execute("UPDATE jobs SET request = ? WHERE id = ?", (json.dumps(request), old.id))
    database.close()
    new = jobs.service.submit("generate", CAT, "me")
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    assert jobs.dispatcher.build_worker_job(taken) is None
    assert jobs.service.get(old.id, "me").state == "failed"
    finish(jobs, new)


def test_a_fault_while_a_job_is_handed_over_fails_that_job_alone(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = (jobs.service.submit("generate", CAT, "me") for _ in range(2))
    worker = Worker(jobs.state.settings, jobs.dispatcher, 0)
    every = [jobs.dispatcher.take_next(1) for _ in range(2)]

    def fail(taken: Job) -> str | None:
        if taken.id == job.id:
            raise LookupError("odd")
        return None

    monkeypatch.setattr(jobs.dispatcher, "build_worker_job", fail)
    worker._run([taken for taken in every if taken is not None])
    assert jobs.service.get(other.id, "me").state == "running"
    failed = jobs.service.get(job.id, "me")
    assert failed.state == "failed"
    assert failed.error == JobFailure("LookupError", "odd")
    assert not worker.running


@pytest.mark.parametrize("end", ["failed", "cancelled while it ran", "cancelled while it waited"])
def test_a_job_that_comes_to_nothing_keeps_no_pictures(jobs: ServerJobs, end: str) -> None:
    data = BytesIO()
    Image.new("RGB", (64, 64), "red").save(data, "PNG")
    upload = jobs.state.uploads.add(data.getvalue(), "photo.png", "me")
    request = GenerateRequest(prompt="a cat", image=upload.id, strength=0.5)
    job = jobs.service.submit("generate", request, "me")
    inputs = jobs.state.folder / job.id / "inputs"
    assert [*inputs.iterdir()]
    if end == "cancelled while it waited":
        jobs.service.cancel(job.id, "me")
    else:
        taken = jobs.dispatcher.take_next(1)
        assert taken is not None
        if end == "failed":
            jobs.dispatcher.record_failure(taken, JobFailure("GenerationError", "why"))
        else:
            jobs.dispatcher.record_cancelled(taken)
    assert jobs.service.get(job.id, "me").is_final
    assert not inputs.exists()


def test_whoever_reads_does_not_wait_for_a_writer(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    with ThreadPoolExecutor(1) as threads, jobs.state.store._transaction():
        assert threads.submit(jobs.service.get, job.id, "").result(timeout=10).id == job.id
