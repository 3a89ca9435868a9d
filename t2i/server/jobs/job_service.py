"""The service behind every route: takes jobs, tells of them, cancels them, finds their files."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from t2i.server.jobs.job import (
    Job,
    JobKind,
    JobNotFoundError,
    ServerStoppingError,
    create_identifier,
)
from t2i.server.jobs.job_events import JobEvent
from t2i.server.jobs.job_inputs import build_source_request, find_source_job, make_upload_linker
from t2i.server.jobs.job_request import JobRequest
from t2i.server.jobs.request_building import (
    check_pixel_steps_limit,
    choose_job_seeds,
    resolve_job_request,
)
from t2i.server.jobs.server_state import ServerState

Jobs: TypeAlias = list[Job]


class JobService:
    """Service through which the HTTP routes submit, list, read, cancel and wait for the jobs of all
    owners.
    """

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.settings, self.catalogue, self.uploads = state.settings, state.catalogue, state.uploads

    @property
    def is_closing(self) -> bool:
        """True once the server ends and the clients that listen to job events are woken."""
        return self.state.events.closing

    def submit(self, kind: JobKind, request: JobRequest, owner: str) -> Job:
        """Check a request, choose its seeds and queue a job for it.

        Raises T2IError as the command line does for a request that cannot be drawn, QueueFullError
        and StorageFullError, JobNotFoundError for an upload or a source that is not there.
        """
        if self.state.draining:
            raise ServerStoppingError("The server is about to stop and takes no new jobs.")
        self.state.ensure_free_space()
        job_id = create_identifier()
        folder = self.state.folder / job_id
        try:
            source = find_source_job(self.state.store, request, owner)
            find = make_upload_linker(self.uploads, self.state.get_input_folder(job_id), owner)
            built = resolve_job_request(
                request,
                self.catalogue,
                find,
                None if source is None else build_source_request(self.state, source),
            )
            seeds = choose_job_seeds(request, built) if source is None else source.seeds[:1]
            check_pixel_steps_limit(
                built, len(seeds), self.catalogue, self.settings.max_pixels_x_steps
            )
            job = Job(
                id=job_id,
                kind=kind,
                state="queued",
                request=request.model_dump(mode="json", exclude_defaults=True),
                owner=owner,
                seeds=seeds,
                created=time.time(),
            )
            self.state.events.publish_state(job)
            self.state.queue.add(job)
        except BaseException:
            self.state.events.forget(job_id)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job

    def get(self, job_id: str, owner: str) -> Job:
        """Return an owner's job. Raises JobNotFoundError."""
        return self._add_progress(self.state.store.get_own(job_id, owner))

    def list(self, owner: str, limit: int = 50, before: str | None = None) -> Jobs:
        """Return an owner's jobs, the newest first; those older than the job `before`, if given."""
        return [
            self._add_progress(job) for job in self.state.store.list_newest(owner, limit, before)
        ]

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job, a running one after its step; a finished one stays as it is."""
        job = self.get(job_id, owner)
        if job.is_final:
            return job
        if self.state.store.cancel_if_queued(job_id, time.time()):
            self.state.publish_state(job_id)
            self.state.remove_inputs_if_failed_or_cancelled(job_id)
        else:
            self.state.queue.request_cancel_of_running_job(job_id)
        return self.get(job_id, owner)

    async def wait(self, job_id: str, owner: str, timeout_s: float | None = None) -> Job:
        """Wait until a job has ended, or for so many seconds, and return it as it is
        then.

        Raises ServerStoppingError where the server ends before.
        """
        job = self.get(job_id, owner)
        try:
            async with asyncio.timeout(timeout_s):
                with self.state.events.listening(job_id) as news:
                    while not (job := self.get(job_id, owner)).is_final:
                        if self.state.events.closing:
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
        async for event in self.iter_events_or_pings(job_id, owner, after, None):
            if event is not None:
                yield event

    async def iter_events_or_pings(
        self, job_id: str, owner: str, after: int, ping_s: float | None
    ) -> AsyncIterator[JobEvent | None]:
        """Yield the events of a server job, past ones first, and None whenever `ping_s` seconds
        pass without any.
        """
        self.get(job_id, owner)
        with self.state.events.listening(job_id) as news:
            while True:
                news.clear()
                for event in self.state.events.list_after(job_id, after):
                    after = event.id
                    yield event
                    if event.is_final:
                        return
                if not self.state.events.has_log(job_id):
                    job = self.get(job_id, owner)
                    if job.is_final:
                        yield JobEvent("state", job.to_dict(), after + 1)
                        return
                if self.state.events.closing:
                    return
                try:
                    async with asyncio.timeout(ping_s):
                        await news.wait()
                except TimeoutError:
                    yield None

    def find_result_file(self, job_id: str, owner: str, name: str) -> Path:
        """Return the path of a file of a server job's result. Raises JobNotFoundError."""
        job = self.get(job_id, owner)
        names = {file.name for file in job.result.files} if job.result else set()
        path = self.state.get_result_folder(job_id) / name
        if name not in names or not path.is_file():
            listed = ", ".join(sorted(names)) or "none"
            raise JobNotFoundError(f"The job has no file {name!r:.80}. Its files: {listed}.")
        return path

    def get_preview(self, job_id: str, owner: str) -> JobEvent | None:
        """Return the newest preview of an owner's running job."""
        self.get(job_id, owner)
        return self.state.events.get_preview(job_id)

    def _add_progress(self, job: Job) -> Job:
        if job.is_final:
            return job
        return replace(job, progress=self.state.events.get_progress(job.id))
