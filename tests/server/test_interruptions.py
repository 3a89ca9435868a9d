"""Jobs that end their worker or the server, and a default model that does not load: each costs
itself alone.
"""

import shutil
import time
from pathlib import Path

import pytest

from t2i.server.jobs.server_state import MAX_INTERRUPTIONS
from t2i.server.worker.backoff import Backoff
from tests.server.jobs_alone import CAT, ServerJobs, reopened
from tests.server.servers import find_worker, fork_server
from tests.server.test_ends import PROMPT, SMALL, wait_until_running


def test_a_job_that_ends_its_worker_waits_behind_the_others_and_fails_at_last(
    jobs: ServerJobs,
) -> None:
    bad, good = (jobs.service.submit("generate", CAT, "") for _ in range(2))
    order = []
    while (taken := jobs.dispatcher.take_next(0)) is not None:
        order.append(taken.id)
        if taken.id == bad.id:
            jobs.dispatcher.requeue_or_fail_interrupted_job(taken, "by signal 9")
        else:
            jobs.dispatcher.record_cancelled(taken)
    assert order == [bad.id, good.id, *[bad.id] * (MAX_INTERRUPTIONS - 1)]
    failed = jobs.service.get(bad.id, "")
    assert failed.state == "failed"
    assert failed.seeds == bad.seeds
    assert failed.error is not None
    assert failed.error.message.startswith(
        "The job was begun 3 times, and its worker process ended each time, at last by signal 9"
    )
    assert "It is not tried again: ask for a smaller size" in failed.error.message
    assert list(jobs.state.folder.glob("*/*")) == []


def test_a_job_that_ends_the_server_is_not_tried_for_ever(jobs: ServerJobs) -> None:
    bad = jobs.service.submit("generate", CAT, "")
    for _ in range(MAX_INTERRUPTIONS):
        taken = jobs.dispatcher.take_next(0)
        assert taken is not None
        assert taken.id == bad.id
        jobs = reopened(jobs)
    assert jobs.dispatcher.take_next(0) is None
    error = jobs.service.get(bad.id, "").error
    assert error is not None
    assert "at last with the server" in error.message
    jobs.state.close()


def test_a_job_that_is_stopped_in_order_is_not_counted(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    for _ in range(MAX_INTERRUPTIONS + 1):
        taken = jobs.dispatcher.take_next(0)
        assert taken is not None
        jobs.dispatcher.queue_again(taken)
        jobs = reopened(jobs)
    assert jobs.service.get(job.id, "").state == "queued"
    jobs.state.close()


def test_a_cancelled_job_whose_worker_ends_is_not_tried_again(jobs: ServerJobs) -> None:
    job = jobs.service.submit("generate", CAT, "")
    taken = jobs.dispatcher.take_next(0)
    assert taken is not None
    jobs.service.cancel(job.id, "")
    jobs.dispatcher.requeue_or_fail_interrupted_job(taken, "by signal 9")
    assert jobs.service.get(job.id, "").state == "cancelled"


def test_delays_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(2, 9)
    assert [backoff.next_delay() for _ in range(4)] == [2, 4, 8, 9]
    backoff.reset()
    assert backoff.next_delay() == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_default_model_that_does_not_load_and_a_killed_worker_stop_nothing_else(
    tmp_path: Path, repo: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(repo / "t2i/assets/embedded", broken)
    for path in broken.glob("unet/*.safetensors"):
        path.write_bytes(b"no weights")
    models = ("--model", str(broken), "--model", "embedded")
    with fork_server(tmp_path / "served", *models, ready=False) as server:
        job = server.submit("generate", prompt=PROMPT, steps=2)
        other = server.submit("generate", **SMALL, steps=40, model="embedded", seed=3)
        failed = server.wait(job["id"], 300)
        assert failed["state"] == "failed"
        assert failed["error"]["type"] == "ModelError"
        health = server.get("/api/v1/health").json()
        assert health["status"] == "ok"
        assert health["ready"] is False
        assert health["problem"].startswith("The default model does not load: the log says why")
        assert str(tmp_path) not in health["problem"]
        assert "The default model does not load, next try in 10 s" in "".join(server.log)

        wait_until_running(server, other["id"])
        find_worker(server.process.pid).kill()
        done = server.wait(other["id"], 300)
        assert done["state"] == "done"
        assert done["result"]["files"][0]["seed"] == 3
        assert server.get("/api/v1/health").json()["ready"] is False

        shutil.copytree(repo / "t2i/assets/embedded", broken, dirs_exist_ok=True)
        end = time.monotonic() + 200
        while not server.get("/api/v1/health").json()["ready"]:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert server.get("/api/v1/health").json()["problem"] is None
