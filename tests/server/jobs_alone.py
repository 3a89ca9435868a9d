"""The jobs of a server without its routes and workers."""

from typing import Any

from t2i.server.jobs.job import Job, JobResult, ResultFile
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.server_state import ServerState
from t2i.server.settings import ServerSettings

CAT = GenerateRequest(prompt="a cat")


class ServerJobs:
    """What takes, hands out and keeps the jobs of a server."""

    def __init__(self, **settings: Any) -> None:
        self.state = ServerState(ServerSettings(**settings))
        self.service, self.dispatcher = JobService(self.state), JobDispatcher(self.state)


def reopened(jobs: ServerJobs, **settings: Any) -> ServerJobs:
    jobs.state.close()
    return ServerJobs(folder=jobs.state.settings.folder, **settings)


def finish(jobs: ServerJobs, job: Job, num_bytes: int = 1000) -> None:
    """Do what a worker does: take a job, write a file, report the result."""
    taken = jobs.dispatcher.take_next(1)
    assert taken is not None
    assert taken.id == job.id
    worker_job = jobs.dispatcher.build_worker_job(taken)
    assert worker_job is not None
    (worker_job.folder / "seed-1.png").write_bytes(bytes(num_bytes))
    result = JobResult((ResultFile("seed-1.png", "image/png"),), {"a": 1})
    jobs.dispatcher.record_result(taken, result)
