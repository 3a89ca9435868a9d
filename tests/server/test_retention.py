"""What is removed, and when: by age, by bytes, at intervals, and on a full disk."""

import os
import shutil
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from t2i.server.jobs.job import JobNotFoundError, StorageFullError
from t2i.server.jobs.job_request import EditRequest, GenerateRequest, RememberRequest
from t2i.server.jobs.retention import GRACE
from tests.server.jobs_alone import CAT, ServerJobs, finish, reopened


def test_old_results_go_by_bytes_and_by_age_the_oldest_first(jobs: ServerJobs) -> None:
    three = []
    for _ in range(3):
        three.append(jobs.service.submit("generate", CAT, ""))
        finish(jobs, three[-1])
    jobs = reopened(jobs, max_bytes=2500)
    assert [job.id for job in jobs.service.list("")] == [three[2].id, three[1].id]
    assert {path.name for path in jobs.state.folder.iterdir()} == {three[1].id, three[2].id}
    with pytest.raises(JobNotFoundError, match="No job"):
        jobs.service.get(three[0].id, "")
    jobs = reopened(jobs, max_age=-1.0)
    assert jobs.service.list("") == []
    assert list(jobs.state.folder.iterdir()) == []
    jobs.state.close()


def test_a_source_that_a_waiting_edit_reads_stays(jobs: ServerJobs) -> None:
    source = jobs.service.submit("remember", RememberRequest(prompt="a cat"), "")
    finish(jobs, source)
    edit = jobs.service.submit("edit", EditRequest(source=source.id, targets=["a dog"]), "")
    jobs = reopened(jobs, max_age=-1.0)
    assert {job.id for job in jobs.service.list("")} == {source.id, edit.id}
    jobs.state.close()


def test_uploads_expire_and_jobs_keep_what_they_took(jobs: ServerJobs, repo: Path) -> None:
    data = (repo / "docs/images/car.webp").read_bytes()
    upload = jobs.state.uploads.add(data, "my car.webp", "")
    job = jobs.service.submit("generate", GenerateRequest(prompt="a car", image=upload.id), "")
    jobs = reopened(jobs, upload_age=-1.0)
    assert list(jobs.state.uploads.folder.iterdir()) == []
    with pytest.raises(JobNotFoundError, match="it has expired"):
        jobs.state.uploads.get(upload.id, "")
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    worker_job = jobs.dispatcher.build_worker_job(taken)
    assert worker_job is not None
    (path,) = worker_job.picture_names
    assert Path(path).read_bytes() == data
    assert worker_job.picture_names[path] == "my car.webp"
    assert job.id == taken.id
    jobs.state.close()


def encode_picture() -> bytes:
    data = BytesIO()
    Image.new("RGB", (64, 64), "red").save(data, "PNG")
    return data.getvalue()


def make_older(jobs: ServerJobs, upload_id: str, seconds: float) -> None:
    """Let an upload have come earlier."""
    with sqlite3.connect(jobs.state.settings.folder / "jobs.sqlite") as database:
        database.execute(
            "UPDATE uploads SET created = created - ? WHERE id = ?", (seconds, upload_id)
        )
    database.close()


def list_uploads(jobs: ServerJobs) -> set[str]:
    return {path.stem for path in jobs.state.uploads.folder.iterdir()}


def test_uploads_count_and_go_with_the_oldest_but_not_while_they_wait_for_their_job(
    jobs: ServerJobs,
) -> None:
    data = encode_picture()
    old, new = (jobs.state.uploads.add(data, "a.png", "").id for _ in range(2))
    make_older(jobs, old, 2 * GRACE)
    jobs = reopened(jobs, max_bytes=2 * len(data))
    assert list_uploads(jobs) == {old, new}
    jobs = reopened(jobs, max_bytes=2 * len(data) - 1)
    assert list_uploads(jobs) == {new}
    jobs = reopened(jobs, max_bytes=0)
    assert list_uploads(jobs) == {new}
    jobs.state.close()


def test_files_of_uploads_that_nobody_knows_go_once_they_are_old(jobs: ServerJobs) -> None:
    upload = jobs.state.uploads.add(encode_picture(), "a.png", "").id
    lost = jobs.state.uploads.add(encode_picture(), "b.png", "")
    lost.path.unlink()
    folder = jobs.state.uploads.folder
    for name in (".half-written", "orphan.png"):
        (folder / name).write_bytes(b"x")
    jobs.state.remove_expired_files()
    assert len(list_uploads(jobs)) == 3
    with pytest.raises(JobNotFoundError):
        jobs.state.uploads.get(lost.id, "")
    long_ago = time.time() - 2 * GRACE
    os.utime(folder / ".half-written", (long_ago, long_ago))
    jobs.state.remove_expired_files()
    assert list_uploads(jobs) == {upload, "orphan"}
    jobs = reopened(jobs)  # at the start no upload is on its way
    assert list_uploads(jobs) == {upload}
    jobs.state.close()


def test_a_server_that_draws_nothing_removes_what_is_too_old(tmp_path: Path) -> None:
    jobs = ServerJobs(folder=tmp_path / "served", max_age=0.5, clean_interval=0.05)
    finish(jobs, jobs.service.submit("generate", CAT, ""))
    jobs.state.start_periodic_cleanup()
    wait_until(lambda: jobs.service.list("") == [])
    wait_until(lambda: not any(jobs.state.folder.iterdir()))  # files go after their record
    jobs.state.close()


def test_the_timer_goes_on_after_a_fault(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = reopened(jobs, clean_interval=0.02)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OSError("busy")

    monkeypatch.setattr(jobs.state, "remove_expired_files", fail)
    jobs.state.start_periodic_cleanup()
    wait_until(lambda: len(calls) > 2)
    jobs.state.close()
    assert "could not be removed" in caplog.text


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


Usage = namedtuple("Usage", "total used free")


def test_on_a_full_disk_what_may_go_goes_before_a_job_is_refused(
    jobs: ServerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = reopened(jobs, max_age=0.0, clean_interval=1e6)
    old = jobs.service.submit("generate", CAT, "")
    finish(jobs, old)
    in_use, left = (jobs.state.uploads.add(encode_picture(), "a.png", "").id for _ in range(2))
    make_older(jobs, left, 2 * GRACE)

    def measure(_folder: Path) -> Usage:
        full = (jobs.state.folder / old.id).exists() or left in list_uploads(jobs)
        return Usage(1 << 40, 0, 0 if full else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", measure)
    assert jobs.service.submit("generate", CAT, "").state == "queued"
    assert list_uploads(jobs) == {in_use}
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(1, 1, 0))
    with pytest.raises(StorageFullError, match="The disk has 0 MB left"):
        jobs.service.submit("generate", CAT, "")
    assert list_uploads(jobs) == {in_use}
    jobs.state.close()
