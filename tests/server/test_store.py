"""What is kept: over an end of the server, up to an age and a size, and on a full disk."""

import asyncio
import json
import sqlite3
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2i.errors import DataError, OutputError
from t2i.server.jobs.job import (
    Job,
    JobFailure,
    JobNotFoundError,
    JobProgress,
    JobResult,
    QueueFullError,
    ResultFile,
    ServerStoppingError,
    StorageFullError,
)
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.job_request import GenerateRequest, RememberRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.server_state import ServerState
from t2i.server.jobs.store import MIGRATIONS, JobStore
from t2i.server.settings import ServerSettings
from t2i.server.worker.worker_pool import Worker
from tests.server.conftest import Idle
from tests.server.servers import run_async

CAT = GenerateRequest(prompt="a cat")


class Server:
    """A server's jobs without its routes and workers."""

    def __init__(self, **settings: Any) -> None:
        self.state = ServerState(ServerSettings(**settings))
        self.service, self.dispatcher = JobService(self.state), JobDispatcher(self.state)


@pytest.fixture
def server(tmp_path: Path):
    made = Server(folder=tmp_path / "served", max_queued=3)
    yield made
    made.state.close()


def reopened(server: Server, **settings: Any) -> Server:
    server.state.close()
    return Server(folder=server.state.settings.folder, **settings)


def finish(server: Server, job: Job, num_bytes: int = 1000) -> None:
    """Do what a worker does: take a job, write a file, report the result."""
    taken = server.dispatcher.take_next(1)
    assert taken is not None
    assert taken.id == job.id
    worker_job = server.dispatcher.prepare(taken)
    assert worker_job is not None
    (worker_job.folder / "seed-1.png").write_bytes(bytes(num_bytes))
    result = JobResult((ResultFile("seed-1.png", "image/png"),), {"a": 1})
    server.dispatcher.record_result(taken, result)


def test_a_job_keeps_its_seed_its_place_and_its_result_over_an_end(server: Server) -> None:
    first, second = (server.service.submit("generate", CAT, "me") for _ in range(2))
    finish(server, first)
    running = server.dispatcher.take_next(1)
    assert running is not None
    server = reopened(server)
    try:
        done, again = server.service.get(first.id, "me"), server.service.get(second.id, "me")
        assert done.result is not None
        assert done.result.data == {"a": 1}
        assert server.service.result_file(first.id, "me", "seed-1.png").stat().st_size == 1000
        assert again.state == "queued"
        assert again.seeds == second.seeds
        assert [job.id for job in server.service.list("me")] == [second.id, first.id]
        assert server.service.list("me", before=second.id) == [done]
        finish(server, again)
    finally:
        server.state.close()


def test_a_job_ends_once(server: Server) -> None:
    job = server.service.submit("generate", CAT, "")
    finish(server, job)
    server.dispatcher.record_failure(job, JobFailure("X", "y"))
    assert server.service.get(job.id, "").state == "done"
    assert server.service.cancel(job.id, "").state == "done"


def test_a_full_queue_says_when_to_come_again(server: Server) -> None:
    for _ in range(3):
        server.service.submit("generate", CAT, "")
    with pytest.raises(QueueFullError, match="3 jobs wait already: try again in 5 seconds") as full:
        server.service.submit("generate", CAT, "")
    assert full.value.retry_after_s == 5
    assert len(server.service.list("")) == 3
    assert len(list(server.state.folder.iterdir())) == 0


def test_a_full_queue_is_answered_with_429_and_retry_after(idle: Idle) -> None:
    client = idle(max_queued=1)
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    assert client.post("/api/v1/jobs", json=job).status_code == 202
    answer = client.post("/api/v1/jobs", json=job)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "5"


def test_a_full_disk_refuses_new_jobs_and_loses_none(tmp_path: Path, idle: Idle) -> None:
    folder = tmp_path / "served"
    server = Server(folder=folder)
    job = server.service.submit("generate", CAT, "")
    server.state.close()
    client = idle(folder=folder, min_free_bytes=1 << 62)
    body = {"kind": "generate", "request": {"prompt": "a cat"}}
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 507
    assert "new jobs need" in answer.json()["error"]["message"]
    assert client.post("/api/v1/uploads", files={"file": b"x"}).status_code == 507
    state: ServerState = client.app.state.server  # type: ignore[attr-defined]
    assert JobDispatcher(state).take_next(0.01) is None
    assert JobService(state).get(job.id, "").state == "queued"


def test_a_job_whose_result_finds_no_room_is_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2i.server.jobs.job_dispatcher.DISK_PAUSE", 0)
    job = server.service.submit("generate", CAT, "")
    failure = JobFailure("OutputError", "The disk is full")
    for _ in range(5):
        taken = server.dispatcher.take_next(1)
        assert taken is not None
        server.dispatcher.record_failure(taken, failure, disk_full=True)
        assert server.service.get(job.id, "").state == "queued"
    taken = server.dispatcher.take_next(1)
    assert taken is not None
    server.dispatcher.record_failure(taken, failure, disk_full=True)
    assert server.service.get(job.id, "").error == failure


def test_a_full_disk_of_the_database_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state.store._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageFullError, match="The disk is full"):
        server.state.store.add_upload(("a", "", "n" * 1_000_000, ".png", 1, 1, 0.0))
    server.state.store._database.execute("PRAGMA max_page_count = 1000000")
    assert server.service.list("") == []


def test_old_results_go_by_bytes_and_by_age_the_oldest_first(server: Server) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(server.service.submit("generate", CAT, ""))
        finish(server, jobs[-1])
    server = reopened(server, max_bytes=2500)
    assert [job.id for job in server.service.list("")] == [jobs[2].id, jobs[1].id]
    assert {path.name for path in server.state.folder.iterdir()} == {jobs[1].id, jobs[2].id}
    with pytest.raises(JobNotFoundError, match="No job"):
        server.service.get(jobs[0].id, "")
    server = reopened(server, max_age=-1.0)
    assert server.service.list("") == []
    assert list(server.state.folder.iterdir()) == []
    server.state.close()


def test_a_source_that_a_waiting_edit_reads_stays(server: Server) -> None:
    source = server.service.submit("remember", RememberRequest(prompt="a cat"), "")
    finish(server, source)
    edit = server.service.submit("edit", parse_edit(source.id), "")
    server = reopened(server, max_age=-1.0)
    assert {job.id for job in server.service.list("")} == {source.id, edit.id}
    server.state.close()


def parse_edit(source: str) -> Any:
    from t2i.server.jobs.job_request import EditRequest

    return EditRequest(source=source, targets=["a dog"])


def test_uploads_expire_and_jobs_keep_what_they_took(server: Server, repo: Path) -> None:
    data = (repo / "docs/images/car.webp").read_bytes()
    upload = server.state.uploads.add(data, "my car.webp", "")
    job = server.service.submit("generate", GenerateRequest(prompt="a car", image=upload.id), "")
    server = reopened(server, upload_age=-1.0)
    assert list(server.state.uploads.folder.iterdir()) == []
    with pytest.raises(JobNotFoundError, match="it has expired"):
        server.state.uploads.get(upload.id, "")
    taken = server.dispatcher.take_next(1)
    assert taken is not None
    worker_job = server.dispatcher.prepare(taken)
    assert worker_job is not None
    (path,) = worker_job.picture_names
    assert Path(path).read_bytes() == data
    assert worker_job.picture_names[path] == "my car.webp"
    assert job.id == taken.id
    server.state.close()


def test_a_folder_serves_one_server(server: Server) -> None:
    with pytest.raises(OutputError, match="Another run is writing"):
        Server(folder=server.state.settings.folder)


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


def test_a_server_that_drains_takes_no_jobs_and_gives_none(server: Server) -> None:
    server.service.submit("generate", CAT, "")
    server.state.drain()
    with pytest.raises(ServerStoppingError, match="takes no new jobs"):
        server.service.submit("generate", CAT, "")
    assert server.dispatcher.take_next(0.01) is None


def test_listeners_hear_the_past_then_what_comes_and_nothing_piles_up(server: Server) -> None:
    job = server.service.submit("generate", CAT, "")
    taken = server.dispatcher.take_next(1)
    assert taken is not None
    for step in range(1000):
        server.dispatcher.record_progress(job.id, JobProgress(step, 1000))
        server.dispatcher.record_preview(job.id, step, "png")

    async def listen() -> list[Any]:
        heard = []
        async for event in server.service.events(job.id, ""):
            heard.append(event)
            if event.event == "preview":
                server.dispatcher.record_failure(taken, JobFailure("GenerationError", "why"))
        return heard

    heard = run_async(listen())
    assert [event.event for event in heard] == ["state", "state", "progress", "preview", "state"]
    assert heard[2].data["step"] == heard[3].data["step"] == 999
    assert heard[-1].data["error"] == {"type": "GenerationError", "message": "why"}
    assert server.state.events._logs == {}
    assert server.state.events._listeners == {}


def test_waiting_ends_with_the_job_the_time_or_the_server(server: Server) -> None:
    job = server.service.submit("generate", CAT, "")
    assert run_async(server.service.wait(job.id, "", 0.01)).state == "queued"

    async def cancel_meanwhile() -> Job:
        waiting = asyncio.create_task(server.service.wait(job.id, "", 5))
        await asyncio.sleep(0.01)
        server.service.cancel(job.id, "")
        return await waiting

    assert run_async(cancel_meanwhile()).state == "cancelled"
    other = server.service.submit("generate", CAT, "")
    server.state.events.close()
    with pytest.raises(ServerStoppingError, match="the job is kept"):
        run_async(server.service.wait(other.id, ""))


def test_a_job_that_this_release_cannot_read_fails_and_the_next_one_runs(
    server: Server,
) -> None:
    old = server.service.submit("generate", CAT, "me")
    request = {"prompt": "a cat", "field_of_an_older_release": 1}
    with sqlite3.connect(server.state.settings.folder / "jobs.sqlite") as database:
        database.execute("UPDATE jobs SET request = ? WHERE id = ?", (json.dumps(request), old.id))
    database.close()
    new = server.service.submit("generate", CAT, "me")
    taken = server.dispatcher.take_next(1)
    assert taken is not None
    assert server.dispatcher.prepare(taken) is None
    assert server.service.get(old.id, "me").state == "failed"
    finish(server, new)


def test_a_fault_while_a_job_is_handed_over_fails_that_job_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = server.service.submit("generate", CAT, "me")
    worker = Worker(server.state.settings, server.dispatcher, 0)
    taken = server.dispatcher.take_next(1)
    assert taken is not None

    def fail(job: Job) -> None:
        raise LookupError("odd")

    monkeypatch.setattr(server.dispatcher, "prepare", fail)
    worker._run(taken)
    failed = server.service.get(job.id, "me")
    assert failed.state == "failed"
    assert failed.error == JobFailure("LookupError", "odd")
    assert not worker.running


def test_a_result_stays_where_old_jobs_cannot_be_removed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("busy")

    monkeypatch.setattr(server.state, "clean", fail)
    job = server.service.submit("generate", CAT, "me")
    finish(server, job)
    server.dispatcher.record_failure(job, JobFailure("EOFError", "the worker ended later"))
    assert server.service.get(job.id, "me").state == "done"
    assert server.service.result_file(job.id, "me", "seed-1.png").exists()


@pytest.mark.parametrize("end", ["failed", "cancelled while it ran", "cancelled while it waited"])
def test_a_job_that_comes_to_nothing_keeps_no_pictures(server: Server, end: str) -> None:
    data = BytesIO()
    Image.new("RGB", (64, 64), "red").save(data, "PNG")
    upload = server.state.uploads.add(data.getvalue(), "photo.png", "me")
    request = GenerateRequest(prompt="a cat", image=upload.id, strength=0.5)
    job = server.service.submit("generate", request, "me")
    inputs = server.state.folder / job.id / "inputs"
    assert [*inputs.iterdir()]
    if end == "cancelled while it waited":
        server.service.cancel(job.id, "me")
    else:
        taken = server.dispatcher.take_next(1)
        assert taken is not None
        if end == "failed":
            server.dispatcher.record_failure(taken, JobFailure("GenerationError", "why"))
        else:
            server.dispatcher.record_cancelled(taken)
    assert server.service.get(job.id, "me").is_final
    assert not inputs.exists()
