"""The side of the jobs that workers see: hands them jobs, and keeps what they report."""

import logging
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from t2i.cli.request.request import Request
from t2i.errors import T2IError
from t2i.server.jobs.batching import find_batch_settings
from t2i.server.jobs.job import Job, JobFailure, JobProgress, JobResult, StorageFullError
from t2i.server.jobs.job_inputs import (
    build_source_request,
    find_source_job,
    make_linked_upload_finder,
)
from t2i.server.jobs.job_request import parse_job_request
from t2i.server.jobs.request_building import resolve_job_request
from t2i.server.jobs.retention import compute_folder_bytes
from t2i.server.jobs.server_state import ServerState
from t2i.server.jobs.worker_job import WorkerJobInputs

logger = logging.getLogger(__name__)
WrittenT = TypeVar("WrittenT")
MAX_TRIES = 5
"""Times that a job is tried whose result a full disk refused."""
MAX_LOOKED_AT = 256
"""Waiting jobs that are looked at for a batch."""
FULL_DISK_PAUSE_SECONDS = 2.0
"""Seconds until the free space is looked at again."""
SOURCE_FOLDER_NAME = "source"
"""Folder of a recorded source below that of its job's result."""


class JobDispatcher:
    """Dispatcher of the waiting jobs of all owners to workers, which writes their results into the
    store.
    """

    def __init__(self, state: ServerState) -> None:
        self.state, self.store = state, state.store
        self._tries: dict[str, int] = {}
        self._interrupted: set[str] = set()

    def take_next(self, timeout: float) -> Job | None:
        """Take the oldest waiting job for a worker; None if none comes within `timeout`
        seconds.

        While the disk is full jobs wait.
        """
        state = self.state
        if state.draining:
            time.sleep(min(timeout, FULL_DISK_PAUSE_SECONDS))
            return None
        try:
            state.ensure_free_space()
        except StorageFullError:
            time.sleep(min(timeout, FULL_DISK_PAUSE_SECONDS))
            return None
        job = state.queue.take(timeout)
        if job is not None:
            state.events.publish_state(job)
        return job

    def take_batch(self, timeout: float) -> list[Job]:
        """Take the oldest waiting job, and with it those that are drawn in one batch with it, up to
        the number of the settings; none if no job comes within `timeout` seconds.
        """
        first = self.take_next(timeout)
        if first is None:
            return []
        together, room = [first], self.state.settings.batch
        shared = self._find_batch_settings(first) if room > 1 else None
        if shared is None:
            return together
        for job in self.store.list_queued(MAX_LOOKED_AT):
            if len(together) == room:
                break
            if self._find_batch_settings(job) == shared and (taken := self._take(job)):
                together.append(taken)
        return together

    def _find_batch_settings(self, job: Job) -> Request | None:
        """Return what the jobs of a batch have in common; None for one that is drawn alone, such as
        one whose worker has ended before.
        """
        alone = job.id in self._interrupted
        return None if alone else find_batch_settings(job, self.state.catalogue)

    def _take(self, job: Job) -> Job | None:
        """Take a waiting job; None if it was cancelled or taken meanwhile."""
        taken = self.store.mark_running(job.id, time.time())
        if taken is not None:
            self.state.events.publish_state(taken)
        return taken

    def build_worker_job(self, job: Job) -> WorkerJobInputs | None:
        """Return a server job as inputs for a worker process; None for one that cannot run, which
        is then stored as failed.
        """
        state = self.state
        folder = state.get_result_folder(job.id)
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
            folder.mkdir(parents=True)
            body = parse_job_request(job.kind, job.request)
            source = find_source_job(state.store, body, job.owner)
            names: dict[str, str] = {}
            built = resolve_job_request(
                body,
                state.catalogue,
                make_linked_upload_finder(state.get_input_folder(job.id), names),
                None if source is None else build_source_request(state, source, names),
            )
        except (T2IError, OSError, ValueError, StopIteration) as error:  # also of an older release
            self.record_failure(job, JobFailure(type(error).__name__, str(error)))
            return None
        return WorkerJobInputs(
            id=job.id,
            kind=job.kind,
            body=body,
            built=built,
            seeds=job.seeds,
            folder=folder,
            picture_names=names,
            source_id=None if source is None else source.id,
            source_folder=None
            if source is None
            else state.get_result_folder(source.id) / SOURCE_FOLDER_NAME,
        )

    def is_cancel_requested(self, job_id: str) -> bool:
        """Return True if the cancellation of a running job was requested."""
        return self.state.queue.is_cancel_requested(job_id)

    def send_progress_to_listeners(self, job_id: str, progress: JobProgress) -> None:
        """Publish the progress of a running job to the clients that listen."""
        self.state.events.publish_progress(job_id, progress)

    def send_preview_to_listeners(self, job_id: str, step: int, png: str) -> None:
        """Publish a preview of a running job's image to the clients that listen."""
        self.state.events.publish_preview(job_id, step, png)

    def record_result(self, job: Job, result: JobResult) -> None:
        """Store the result of a job, whose state becomes "done"."""
        size = compute_folder_bytes(self.state.folder / job.id)
        self._finish(
            job,
            lambda: self.store.finish(job.id, "done", time.time(), result=result, num_bytes=size),
        )

    def record_failure(self, job: Job, failure: JobFailure, *, disk_full: bool = False) -> None:
        """Store the error of a job, whose state becomes "failed"; with a full disk it is queued
        again.
        """
        tries = self._tries.get(job.id, 0)
        if self.store.get(job.id).state == "running":  # what is done stays
            shutil.rmtree(self.state.get_result_folder(job.id), ignore_errors=True)
        if disk_full and tries < MAX_TRIES:
            self._tries[job.id] = tries + 1
            self.queue_again(job)
            time.sleep(FULL_DISK_PAUSE_SECONDS)
            return
        self._finish(job, lambda: self.store.finish(job.id, "failed", time.time(), error=failure))
        self.state.remove_inputs_if_failed_or_cancelled(job.id)

    def record_cancelled(self, job: Job) -> None:
        """Store that a running job was cancelled: its state becomes "cancelled"."""
        shutil.rmtree(self.state.get_result_folder(job.id), ignore_errors=True)
        self._finish(job, lambda: self.store.finish(job.id, "cancelled", time.time()))
        self.state.remove_inputs_if_failed_or_cancelled(job.id)

    def requeue_or_fail_interrupted_job(self, job: Job, reason: str) -> None:
        """Queue a job whose worker process has ended by itself again, behind those that wait; fail
        it where that was too often, or cancel it if that was requested.

        reason : how it ended
        """
        self._interrupted.add(job.id)
        if self.is_cancel_requested(job.id):
            self.record_cancelled(job)
        elif self._write(lambda: self.state.count_interruption_or_fail_job(job, reason)):
            self._write(lambda: self.store.move_to_end(job.id))
            self.queue_again(job)
        else:
            self._forget(job)
            self.state.publish_state(job.id)

    def queue_again(self, job: Job) -> None:
        """Queue a running job again that could not be finished."""
        for job_id in self._write(lambda: self.store.queue_again(job.id)):
            self.state.publish_state(job_id)

    def _finish(self, job: Job, write: Callable[[], bool]) -> None:
        """Write the end of a job and tell the listeners."""
        written = self._write(write)
        self._forget(job)
        if written:
            self.state.publish_state(job.id)

    def _forget(self, job: Job) -> None:
        self.state.queue.forget_cancel(job.id)
        self._tries.pop(job.id, None)
        self._interrupted.discard(job.id)

    def _write(self, write: Callable[[], WrittenT]) -> WrittenT:
        """Write into the store, as soon as the disk has room for it."""
        while True:
            try:
                return write()
            except StorageFullError:
                logger.warning("The disk is full: the state of a job waits until it can be noted.")
                time.sleep(FULL_DISK_PAUSE_SECONDS)
