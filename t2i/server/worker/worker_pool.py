"""The worker processes of a server: each is given jobs, and started again when it ends."""

import logging
import multiprocessing
import threading
import time
from typing import TYPE_CHECKING

from t2i.server.jobs.job import Job, JobFailure, JobProgress, JobResult
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.worker_job import (
    FailureMessage,
    PreviewMessage,
    ReadyMessage,
    WorkerJob,
    WorkerMessage,
)
from t2i.server.settings import ServerSettings
from t2i.server.worker.worker_process import CANCEL, WorkerSettings, run_worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)
IDLE = 1.0
"""Seconds after which a waiting worker's process is looked at."""
POLL = 0.05
"""Seconds after which the wish to stop a running job is looked at."""
LONGEST_END = 10.0
"""Seconds in which a worker that does nothing has to end by itself."""
RESTART_DELAY = 2.0
"""Seconds between two starts of a worker that ends before it is ready."""


class WorkerPool:
    """The worker processes of a server, each with a thread that hands it jobs."""

    def __init__(self, settings: ServerSettings, dispatcher: JobDispatcher) -> None:
        self.dispatcher = dispatcher
        self.workers = [
            Worker(settings, dispatcher, number) for number in range(max(1, settings.workers))
        ]

    def start(self) -> None:
        """Start the processes; they load the default model."""
        for worker in self.workers:
            worker.thread.start()

    @property
    def ready(self) -> bool:
        """True once a worker has loaded the default model."""
        return any(worker.ready for worker in self.workers)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no worker runs a job; return whether that is so."""
        end = None if timeout is None else time.monotonic() + timeout
        while any(worker.running for worker in self.workers):
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(POLL)
        return True

    def stop(self) -> None:
        """End the threads and the processes; jobs that still run are queued again."""
        for worker in self.workers:
            worker.stopping = True
        for worker in self.workers:
            if worker.running or not worker.ready:
                worker.kill_process()
        for worker in self.workers:
            if worker.thread.is_alive():
                worker.thread.join(timeout=LONGEST_END)
            worker.kill_process()


class Worker:
    """One worker process and the thread that hands it jobs."""

    def __init__(self, settings: ServerSettings, dispatcher: JobDispatcher, number: int) -> None:
        self.dispatcher = dispatcher
        self.settings = WorkerSettings(
            models=dict(dispatcher.state.catalogue.models),
            device_number=number,
            model_bytes=settings.model_bytes,
            preview_share=settings.preview_share,
        )
        self.ready = self.running = self.stopping = False
        self.thread = threading.Thread(target=self._loop, name=f"worker-{number}", daemon=True)
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def kill_process(self) -> None:
        """Kill the process, if it is there; its thread sees that."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def _loop(self) -> None:
        while not self.stopping:
            try:
                self._run_process()
            except (EOFError, OSError):
                self.ready = False
            except (
                Exception
            ):  # such as a store that takes nothing now: the next try may fare better
                logger.exception("%s is started again.", self.thread.name)
            if not self.stopping:
                time.sleep(RESTART_DELAY)

    def _run_process(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=run_worker, args=(theirs, self.settings), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            message = self._connection.recv()
            assert isinstance(message, ReadyMessage)
            self.ready = True
            while not self.stopping and self._process.is_alive():
                job = self.dispatcher.take_next(IDLE)
                if job is not None:
                    self._run(job)
        finally:
            self.ready = False
            self._connection.close()
            self._process.join(timeout=5)

    def _run(self, job: Job) -> None:
        self.running = True
        try:
            worker_job = self.dispatcher.prepare(job)
            if worker_job is not None:
                self._exchange(job, worker_job)
        except (EOFError, OSError) as error:
            self._report_death(job)
            raise EOFError from error
        except Exception as error:  # a fault of one job must not end the thread of a worker
            logger.exception("Job %s could not be run.", job.id)
            self.dispatcher.record_failure(job, JobFailure(type(error).__name__, str(error)))
        finally:
            self.running = False

    def _exchange(self, job: Job, worker_job: WorkerJob) -> None:
        """Send a job to the process, and pass on what it reports until the job has ended."""
        connection = self._connection
        assert connection is not None
        connection.send(worker_job)
        told = False
        while True:
            if not told and self.dispatcher.is_cancel_requested(job.id):
                connection.send(CANCEL)
                told = True
            if connection.poll(POLL) and self._pass_on(job, connection.recv()):
                return

    def _pass_on(self, job: Job, message: WorkerMessage) -> bool:
        """Pass on one message of the process; return True for the last one of the job."""
        if isinstance(message, JobProgress):
            self.dispatcher.record_progress(job.id, message)
        elif isinstance(message, PreviewMessage):
            self.dispatcher.record_preview(job.id, message.step, message.png)
        elif isinstance(message, JobResult):
            self.dispatcher.record_result(job, message)
            return True
        elif isinstance(message, FailureMessage):
            self.dispatcher.record_failure(job, message.failure, disk_full=message.disk_full)
            return True
        elif message == "cancelled":
            self.dispatcher.record_cancelled(job)
            return True
        return False

    def _report_death(self, job: Job) -> None:
        """Fail the job whose process has died; queue it again where the server itself ends."""
        if self.stopping:
            self.dispatcher.queue_again(job)
            return
        assert self._process is not None
        self._process.join(timeout=5)
        code = self._process.exitcode
        logger.error("A worker has ended with code %s.", code)
        reason = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        failure = JobFailure(
            "GenerationError",
            f"The worker process was ended {reason}, perhaps for lack of memory. Ask for a smaller "
            "size or fewer pictures at once.",
        )
        self.dispatcher.record_failure(job, failure)
