"""The worker processes of a server: each is given jobs, and started again when it ends."""

import logging
import multiprocessing
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from t2i.server.jobs.job import Job, JobFailure, JobProgress, JobResult
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.worker_job import (
    CancelMessage,
    FailureMessage,
    JobOutcome,
    JobUpdateMessage,
    PreviewMessage,
    ReadyMessage,
    WorkerJobInputs,
)
from t2i.server.settings import ServerSettings, WorkerSettings
from t2i.server.worker.backoff import Backoff
from t2i.server.worker.worker_process import LOAD_MESSAGE, run_worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)
IDLE_CHECK_SECONDS = 1.0
"""Seconds after which a waiting worker's process is looked at."""
CANCEL_CHECK_SECONDS = 0.25
"""Seconds after which the wish to stop a running job is looked at, if it reports nothing before."""
END_CHECK_SECONDS = 0.05
"""Seconds after which the workers are looked at while the server waits for their end."""
MAX_SHUTDOWN_SECONDS = 10.0
"""Seconds in which a worker that does nothing has to end by itself."""
RESTART_DELAYS = (2.0, 60.0)
"""Seconds between two starts of a worker that ends: the first delay, and the longest."""
LOAD_DELAYS = (10.0, 600.0)
"""Seconds between two tries of a default model that does not load."""
CONTEXT = multiprocessing.get_context("spawn")
"""How the processes start: one that is forked from a server would share its threads' locks."""
LOAD_PROBLEM = (
    "The default model does not load: the log says why. It is tried again now and then; jobs with "
    "other models are run."
)
START_PROBLEM = "The worker processes do not start: the log says why. They are tried again."


class WorkerPool:
    """The worker processes of a server, each with a thread that hands it jobs."""

    def __init__(self, settings: ServerSettings, dispatcher: JobDispatcher) -> None:
        self.dispatcher = dispatcher
        self.workers = [
            Worker(settings, dispatcher, number) for number in range(max(1, settings.workers))
        ]

    def start(self) -> None:
        """Start the worker processes of a server, which load the default model."""
        for worker in self.workers:
            worker.thread.start()

    @property
    def ready(self) -> bool:
        """True once a worker process of the server has loaded the default model."""
        return any(worker.ready for worker in self.workers)

    @property
    def problem(self) -> str | None:
        """Reason why no worker process of the server is ready, without the details that are in the
        log; None before one has failed.
        """
        if self.ready:
            return None
        if any(worker.available for worker in self.workers):
            return next((LOAD_PROBLEM for worker in self.workers if worker.load_failed), None)
        return next((START_PROBLEM for worker in self.workers if worker.start_failed), None)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no worker runs a job; return True if that is so."""
        end = None if timeout is None else time.monotonic() + timeout
        while any(worker.running for worker in self.workers):
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(END_CHECK_SECONDS)
        return True

    def stop(self) -> None:
        """End the worker processes of a server and their threads; jobs that still run are queued
        again.
        """
        for worker in self.workers:
            worker.stopping.set()
        for worker in self.workers:
            if worker.running or not worker.available:
                worker.kill_process()
        for worker in self.workers:
            if worker.thread.is_alive():
                worker.thread.join(timeout=MAX_SHUTDOWN_SECONDS)
            worker.kill_process()


class Worker:
    """One worker process and the thread that hands it jobs.

    available : the process takes jobs; ready : it has loaded the default model, too
    load_failed : the default model did not load when it was tried last
    start_failed : the process ended before it was available when it was started last
    """

    def __init__(self, settings: ServerSettings, dispatcher: JobDispatcher, number: int) -> None:
        self.dispatcher = dispatcher
        self.settings = WorkerSettings(
            models=dict(dispatcher.state.catalogue.models),
            device_number=number,
            model_bytes=settings.model_bytes,
            preview_share=settings.preview_share,
        )
        self.available = self.ready = self.running = self.load_failed = self.start_failed = False
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._loop, name=f"worker-{number}", daemon=True)
        self._restarts, self._loads = Backoff(*RESTART_DELAYS), Backoff(*LOAD_DELAYS)
        self._next_load = 0.0
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def kill_process(self) -> None:
        """Kill the worker's process, if it runs; its thread notices that."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def _loop(self) -> None:
        while not self.stopping.is_set():
            try:
                self._run_process()
            except (EOFError, OSError):
                pass
            except (
                Exception
            ):  # such as a store that takes nothing now: the next try may fare better
                logger.exception("%s is started again.", self.thread.name)
            self.stopping.wait(self._restarts.next_delay())

    def _run_process(self) -> None:
        self._connection, theirs = CONTEXT.Pipe()
        # A model that did not load may have ended the process: others are not to wait for it.
        settings = replace(self.settings, loads_default=not self.load_failed)
        self._process = CONTEXT.Process(target=run_worker, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._wait_until_loaded(asked=settings.loads_default)
            self.start_failed = False
            self.available = True
            self._restarts.reset()
            while not self.stopping.is_set() and self._process.is_alive():
                if self.load_failed and time.monotonic() >= self._next_load:
                    self._connection.send(LOAD_MESSAGE)
                    self._wait_until_loaded(asked=True)
                if jobs := self.dispatcher.take_batch(IDLE_CHECK_SECONDS):
                    self._run(jobs)
        finally:
            self.available = self.ready = False
            self._connection.close()
            self._process.join(timeout=5)

    def _wait_until_loaded(self, *, asked: bool) -> None:
        """Wait for the process to be available, with the default model where it was asked for it.

        Raises EOFError if it ends before.
        """
        assert self._connection is not None
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            if not self.stopping.is_set():
                self.start_failed = not self.available
                self._note_load("the worker process ended" if asked else None, loaded=False)
            raise
        assert isinstance(message, ReadyMessage)
        self._note_load(message.failure, loaded=message.model_loaded)

    def _note_load(self, failure: str | None, *, loaded: bool) -> None:
        """Note whether the default model is loaded, or why it failed to load."""
        self.ready = loaded
        if loaded:
            self.load_failed = False
            self._loads.reset()
        elif failure is not None:
            delay = self._loads.next_delay()
            self.load_failed, self._next_load = True, time.monotonic() + delay
            logger.error("The default model does not load, next try in %.0f s: %s", delay, failure)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Have jobs run that were taken together."""
        self.running = True
        running: dict[str, Job] = {}
        try:
            prepared = [one for one in map(self._prepare, jobs) if one is not None]
            given = {one.id for one in prepared}
            running |= {job.id: job for job in jobs if job.id in given}
            if prepared:
                self._exchange(running, tuple(prepared))
        except (EOFError, OSError) as error:
            self._report_death(running.values())
            raise EOFError from error
        except Exception as error:  # a fault of one job must not end the thread of a worker
            for job in running.values():
                self._fail(job, error)
        finally:
            self.running = False

    def _prepare(self, job: Job) -> WorkerJobInputs | None:
        try:
            return self.dispatcher.build_worker_job(job)
        except Exception as error:
            self._fail(job, error)
            return None

    def _fail(self, job: Job, error: Exception) -> None:
        logger.error("Job %s could not be run.", job.id, exc_info=error)
        self.dispatcher.record_failure(job, JobFailure(type(error).__name__, str(error)))

    def _exchange(self, running: dict[str, Job], given: tuple[WorkerJobInputs, ...]) -> None:
        """Send jobs to the process, and pass on what it reports until all have ended.

        running : by their identifiers; a job is removed once it has ended
        """
        connection = self._connection
        assert connection is not None
        connection.send(given)
        told: set[str] = set()
        while running:
            for job_id in running.keys() - told:
                if self.dispatcher.is_cancel_requested(job_id):
                    connection.send(CancelMessage(job_id))
                    told.add(job_id)
            if connection.poll(CANCEL_CHECK_SECONDS):
                news: JobUpdateMessage = connection.recv()
                job = running.get(news.job_id)  # None for one that has failed here meanwhile
                if job is not None and self._pass_on(job, news.message):
                    del running[job.id]

    def _pass_on(self, job: Job, message: JobProgress | PreviewMessage | JobOutcome) -> bool:
        """Pass on a message of the process about a job; return True for the last one."""
        if isinstance(message, JobProgress):
            self.dispatcher.send_progress_to_listeners(job.id, message)
        elif isinstance(message, PreviewMessage):
            self.dispatcher.send_preview_to_listeners(job.id, message.step, message.png)
        elif isinstance(message, JobResult):
            if message.data.get("request", {}).get("model") == next(iter(self.settings.models)):
                self._note_load(None, loaded=True)
            self.dispatcher.record_result(job, message)
            return True
        elif isinstance(message, FailureMessage):
            self.dispatcher.record_failure(job, message.failure, disk_full=message.disk_full)
            return True
        else:
            self.dispatcher.record_cancelled(job)
            return True
        return False

    def _report_death(self, jobs: Iterable[Job]) -> None:
        """Tell of jobs whose process has died; queue them again where the server itself ends."""
        if self.stopping.is_set():
            for job in jobs:
                self.dispatcher.queue_again(job)
            return
        assert self._process is not None
        self._process.join(timeout=5)
        code = self._process.exitcode
        logger.error("A worker has ended with code %s.", code)
        reason = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        for job in jobs:
            self.dispatcher.requeue_or_fail_interrupted_job(job, reason)
