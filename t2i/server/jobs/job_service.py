"""The service behind every route: takes jobs, tells of them, and keeps what workers report."""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from t2i.cli.request.request import Request
from t2i.errors import ArgumentError, T2IError
from t2i.run_folder import lock_folder
from t2i.server.catalogue import Catalogue, list_catalogue
from t2i.server.jobs.job import (
    Job,
    JobFailure,
    JobKind,
    JobNotFoundError,
    JobProgress,
    JobResult,
    ServerStoppingError,
    StorageFullError,
    create_identifier,
)
from t2i.server.jobs.job_events import JobEvent, JobEvents
from t2i.server.jobs.job_inputs import find_taken_uploads, take_uploads
from t2i.server.jobs.job_queue import JobQueue
from t2i.server.jobs.job_request import JobRequest, parse_job_request
from t2i.server.jobs.request_building import (
    build_request,
    check_size_of_work,
    choose_job_seeds,
)
from t2i.server.jobs.retention import (
    measure_folder,
    remove_old_jobs,
    remove_old_uploads,
    remove_orphans,
)
from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import Uploads, check_free_space
from t2i.server.jobs.worker_job import WorkerJob
from t2i.server.settings import ServerSettings

logger = logging.getLogger(__name__)
SOURCE_KINDS: tuple[JobKind, ...] = ("remember", "invert")
TRIES = 5
"""Times that a job is tried whose result a full disk refused."""
DISK_PAUSE = 2.0
"""Seconds until the free space is looked at again."""
INPUTS, RESULT, SOURCE = "inputs", "result", "source"
"""Folders of a job: uploaded pictures, files of the result, and below that a recorded source."""
Jobs: TypeAlias = list[Job]


class JobService:
    """Jobs of all owners: the store, the queue, the events, the uploads and the files."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the folder of the settings; jobs that ran when the last server ended wait again.

        Raises OutputError where another server uses the folder.
        """
        self.settings = settings
        self.catalogue: Catalogue = list_catalogue(settings)
        self._lock = lock_folder(settings.folder)
        self._lock.__enter__()
        self.folder = settings.folder.resolve() / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = JobStore(settings.folder / "jobs.sqlite")
        self.queue = JobQueue(self.store, settings.max_queued)
        self.hub = JobEvents()
        self.uploads = Uploads(
            self.store, settings.folder.resolve() / "uploads", settings.min_free_bytes
        )
        self.draining = False
        self._tries: dict[str, int] = {}
        self.store.queue_again()
        remove_orphans(self.store, self.folder)
        self.clean()

    def close(self) -> None:
        """Close the store and free the folder; listeners are woken."""
        self.queue.stop()
        self.hub.close()
        self.store.close()
        self._lock.__exit__(None, None, None)

    # for routes

    def submit(self, kind: JobKind, request: JobRequest, owner: str) -> Job:
        """Check a request and queue a job for it; its seeds are fixed from now on.

        Raises T2IError as the command line does for a request that cannot be drawn, QueueFullError
        and StorageFullError, JobNotFoundError for an upload or a source that is not there.
        """
        if self.draining:
            raise ServerStoppingError("The server is about to stop and takes no new jobs.")
        check_free_space(self.folder, self.settings.min_free_bytes)
        job_id = create_identifier()
        folder = self.folder / job_id
        try:
            source = self._find_source(request, owner)
            find = take_uploads(self.uploads, folder / INPUTS, owner)
            built = build_request(
                request,
                self.catalogue,
                find,
                None if source is None else self._build_source_request(source),
            )
            seeds = choose_job_seeds(request, built) if source is None else source.seeds[:1]
            check_size_of_work(built, len(seeds), self.catalogue, self.settings.max_pixels_x_steps)
            job = Job(
                id=job_id,
                kind=kind,
                state="queued",
                request=request.model_dump(mode="json", exclude_defaults=True),
                owner=owner,
                seeds=seeds,
                created=time.time(),
            )
            self.hub.publish_state(job)
            self.queue.add(job)
        except BaseException:
            self.hub.forget(job_id)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job

    def get(self, job_id: str, owner: str) -> Job:
        """Return an owner's job. Raises JobNotFoundError."""
        job = self.store.get(job_id)
        if job.owner != owner:
            raise JobNotFoundError(f"No job {job_id!r:.80}: it was removed, or never was.")
        return job if job.is_final else replace(job, progress=self.hub.get_progress(job_id))

    def list(self, owner: str, limit: int = 50, before: str | None = None) -> Jobs:
        """Return an owner's jobs, the newest first; those older than the job `before`, if given."""
        jobs = self.store.list_newest(owner, limit, before)
        return [
            job if job.is_final else replace(job, progress=self.hub.get_progress(job.id))
            for job in jobs
        ]

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job, a running one after its step; a finished one stays as it is."""
        job = self.get(job_id, owner)
        if job.is_final:
            return job
        if self.store.cancel_if_queued(job_id, time.time()):
            self._publish_final(job_id)
            self._remove_inputs(job)
        else:
            self.queue.request_cancel(job_id)
        return self.get(job_id, owner)

    async def wait(self, job_id: str, owner: str, timeout_s: float | None = None) -> Job:
        """Wait until a job is over, or for so many seconds, and return it as it is then.

        Raises ServerStoppingError where the server ends before.
        """
        job = self.get(job_id, owner)
        try:
            async with asyncio.timeout(timeout_s):
                with self.hub.listening(job_id) as news:
                    while not (job := self.get(job_id, owner)).is_final:
                        if self.hub.closing:
                            raise ServerStoppingError(
                                "The server stops; the job is kept, and drawn when it starts again."
                            )
                        await news.wait()
                        news.clear()
        except TimeoutError:
            return self.get(job_id, owner)
        return job

    async def events(self, job_id: str, owner: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield the events of a job, past ones first; the last one is its final state.

        after : number of the last event that the client has seen
        """
        async for event in self.events_or_pings(job_id, owner, after, None):
            if event is not None:
                yield event

    async def events_or_pings(
        self, job_id: str, owner: str, after: int, ping_s: float | None
    ) -> AsyncIterator[JobEvent | None]:
        """Yield the events of a job as `events` does, and None after `ping_s` without any."""
        self.get(job_id, owner)
        with self.hub.listening(job_id) as news:
            while True:
                news.clear()
                for event in self.hub.list_after(job_id, after):
                    after = event.id
                    yield event
                    if event.is_final:
                        return
                job = self.get(job_id, owner)
                if job.is_final:  # its log is dropped
                    yield JobEvent("state", job.to_dict(), after + 1)
                    return
                if self.hub.closing:
                    return
                try:
                    async with asyncio.timeout(ping_s):
                        await news.wait()
                except TimeoutError:
                    yield None

    def result_file(self, job_id: str, owner: str, name: str) -> Path:
        """Return the path of a file of a job's result. Raises JobNotFoundError."""
        job = self.get(job_id, owner)
        names = {file.name for file in job.result.files} if job.result else set()
        path = self.folder / job_id / RESULT / name
        if name not in names or not path.is_file():
            listed = ", ".join(sorted(names)) or "none"
            raise JobNotFoundError(f"The job has no file {name!r:.80}. Its files: {listed}.")
        return path

    def get_preview(self, job_id: str, owner: str) -> JobEvent | None:
        """Return the newest preview of an owner's running job."""
        self.get(job_id, owner)
        return self.hub.get_preview(job_id)

    # for workers

    def take_next(self, timeout: float) -> Job | None:
        """Take the oldest job for a worker; None where none comes within `timeout` seconds.

        While the disk is full jobs wait.
        """
        if self.draining:
            time.sleep(min(timeout, DISK_PAUSE))
            return None
        try:
            check_free_space(self.folder, self.settings.min_free_bytes)
        except StorageFullError:
            self.clean()
            time.sleep(min(timeout, DISK_PAUSE))
            return None
        job = self.queue.take(timeout)
        if job is not None:
            self.hub.publish_state(job)
        return job

    def prepare(self, job: Job) -> WorkerJob | None:
        """Return a job as a worker is given it; None for one that cannot run, which has failed."""
        folder = self.folder / job.id / RESULT
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
            folder.mkdir(parents=True)
            body = parse_job_request(job.kind, job.request)
            source = self._find_source(body, job.owner)
            names: dict[str, str] = {}
            built = build_request(
                body,
                self.catalogue,
                find_taken_uploads(self.folder / job.id / INPUTS, names),
                None if source is None else self._build_source_request(source, names),
            )
        except (T2IError, OSError, ValueError, StopIteration) as error:  # also of an older release
            self.record_failure(job, JobFailure(type(error).__name__, str(error)))
            return None
        return WorkerJob(
            id=job.id,
            kind=job.kind,
            body=body,
            built=built,
            seeds=job.seeds,
            folder=folder,
            picture_names=names,
            source_id=None if source is None else source.id,
            source_folder=None if source is None else self.folder / source.id / RESULT / SOURCE,
        )

    def is_cancel_requested(self, job_id: str) -> bool:
        """Return whether a running job is to stop."""
        return self.queue.is_cancel_requested(job_id)

    def record_progress(self, job_id: str, progress: JobProgress) -> None:
        """Tell the listeners how far a job is."""
        self.hub.publish_progress(job_id, progress)

    def record_preview(self, job_id: str, step: int, png: str) -> None:
        """Tell the listeners what a job's image looks like after a step."""
        self.hub.publish_preview(job_id, step, png)

    def record_result(self, job: Job, result: JobResult) -> None:
        """Keep the result of a job, which is done."""
        size = measure_folder(self.folder / job.id)
        self._finish(
            job,
            lambda: self.store.finish(job.id, "done", time.time(), result=result, num_bytes=size),
        )
        try:
            self.clean()
        except (T2IError, OSError):  # no fault of the job, which is done
            logger.exception("Old jobs and uploads could not be removed.")

    def record_failure(self, job: Job, failure: JobFailure, *, disk_full: bool = False) -> None:
        """Keep the error of a job, which has failed; for a full disk it is tried again."""
        tries = self._tries.get(job.id, 0)
        if self.store.get(job.id).state == "running":  # what is done stays
            shutil.rmtree(self.folder / job.id / RESULT, ignore_errors=True)
        if disk_full and tries < TRIES:
            self._tries[job.id] = tries + 1
            self.queue_again(job)
            time.sleep(DISK_PAUSE)
            return
        self._finish(job, lambda: self.store.finish(job.id, "failed", time.time(), error=failure))
        self._remove_inputs(job)

    def record_cancelled(self, job: Job) -> None:
        """Keep that a running job was cancelled."""
        shutil.rmtree(self.folder / job.id / RESULT, ignore_errors=True)
        self._finish(job, lambda: self.store.finish(job.id, "cancelled", time.time()))
        self._remove_inputs(job)

    def queue_again(self, job: Job) -> None:
        """Let a running job wait again, for it could not be finished."""
        for job_id in self.store.queue_again(job.id):
            self.hub.publish_state(self.store.get(job_id))

    # for the server

    def drain(self) -> None:
        """Take no new jobs and start none; those that run are finished."""
        self.draining = True
        self.queue.stop()

    def clean(self) -> None:
        """Remove old results and uploads."""
        needed = {
            source
            for job in self.store.list_active()
            if isinstance(source := job.request.get("source"), str)
        }
        settings = self.settings
        remove_old_jobs(self.store, self.folder, settings.max_bytes, settings.max_age, needed)
        remove_old_uploads(self.uploads, settings.upload_age)

    def _finish(self, job: Job, write: Callable[[], bool]) -> None:
        """Write the end of a job, as soon as the disk has room for it, and tell the listeners."""
        while True:
            try:
                written = write()
                break
            except StorageFullError:
                logger.warning("The disk is full: a finished job waits until it can be noted.")
                time.sleep(DISK_PAUSE)
        self.queue.forget_cancel(job.id)
        self._tries.pop(job.id, None)
        if written:
            self._publish_final(job.id)

    def _remove_inputs(self, job: Job) -> None:
        """Remove the pictures that a job took, for it has failed or was cancelled."""
        if self.store.get(job.id).state in ("failed", "cancelled"):
            shutil.rmtree(self.folder / job.id / INPUTS, ignore_errors=True)

    def _publish_final(self, job_id: str) -> None:
        self.hub.publish_state(self.store.get(job_id))

    def _find_source(self, request: JobRequest, owner: str) -> Job | None:
        """Return the job that recorded the source which a request names."""
        source_id = getattr(request, "source", None)
        if source_id is None:
            return None
        source = self.get(source_id, owner)
        if source.kind not in SOURCE_KINDS:
            raise ArgumentError(
                f"The job {source_id} is of the kind {source.kind}, which records no source: "
                f"expected one of {' and '.join(SOURCE_KINDS)}."
            )
        if source.state != "done":
            reason = "" if source.error is None else f" ({source.error.message})"
            raise ArgumentError(
                f"The job {source_id} is {source.state}{reason}: a source can be used once it is "
                "done."
            )
        return source

    def _build_source_request(self, source: Job, names: dict[str, str] | None = None) -> Request:
        body = parse_job_request(source.kind, source.request)
        find = find_taken_uploads(self.folder / source.id / INPUTS, {} if names is None else names)
        return build_request(body, self.catalogue, find).request
