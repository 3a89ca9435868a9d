"""A worker process: it runs the jobs that a pipe brings, one after another or together."""

import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from t2i.server.jobs.job import JobCancelledError, JobProgress
from t2i.server.jobs.worker_job import (
    CancelMessage,
    JobOutcome,
    JobUpdateMessage,
    PreviewMessage,
    ReadyMessage,
    Report,
    WorkerJobInputs,
)
from t2i.server.settings import WorkerSettings

if TYPE_CHECKING:
    from t2i.server.worker.job_worker import JobWorker

LOAD_MESSAGE = "load"
"""Message to a worker: load the default model, and answer with a ReadyMessage."""


def run_worker(connection: Connection, settings: WorkerSettings) -> None:
    """Main function of a worker process: load the default model, then run the jobs that the
    connection brings until it is closed; also if the model does not load.

    Signals of the terminal are for the server, which closes the connection.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(connection, settings)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server has ended
    finally:
        sys.stdout.flush()


def _serve(connection: Connection, settings: WorkerSettings) -> None:
    # Here, for it takes seconds, in which the server can already answer.
    from t2i.server.worker.job_worker import JobWorker

    worker = JobWorker(settings)

    def load_default() -> ReadyMessage:
        failure = worker.load_default_model()
        return ReadyMessage(failure is None, failure)

    connection.send(load_default() if settings.loads_default else ReadyMessage(False))
    while True:
        order = connection.recv()
        if isinstance(order, CancelMessage):  # of a job that has just ended
            continue
        if order == LOAD_MESSAGE:
            connection.send(load_default())
            continue
        _run(worker, order, connection)


def _run(worker: "JobWorker", jobs: Sequence[WorkerJobInputs], connection: Connection) -> None:
    """Run jobs together, and send their progress and their ends."""
    cancelled: set[str] = set()

    def make_report(job: WorkerJobInputs) -> Report:
        def report(message: JobProgress | PreviewMessage) -> None:
            while connection.poll():
                if isinstance(order := connection.recv(), CancelMessage):
                    cancelled.add(order.job_id)
            if job.id in cancelled:
                raise JobCancelledError("The job was cancelled.")
            connection.send(JobUpdateMessage(job.id, message))

        return report

    def end(number: int, outcome: JobOutcome) -> None:
        connection.send(JobUpdateMessage(jobs[number].id, outcome))

    worker.run_jobs_as_batch(jobs, [make_report(job) for job in jobs], end)
