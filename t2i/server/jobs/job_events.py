"""Events of running jobs, for clients that listen: states, progress and previews.

A log keeps the states and the newest progress and preview, so that neither a long run nor a client
that reads nothing takes memory.
"""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from t2i.server.jobs.job import Job, JobProgress

EventKind = Literal["state", "progress", "preview"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Event of a job: its kind, its data as JSON, and its number within the job."""

    event: EventKind
    data: dict[str, Any]
    id: int = 0

    @property
    def is_final(self) -> bool:
        """True for the last event of a job."""
        return self.event == "state" and self.data["state"] in ("done", "failed", "cancelled")


@dataclass(slots=True)
class JobEventLog:
    """Events of one server job so far: all its states, its newest progress and its newest
    preview.
    """

    states: list[JobEvent] = field(default_factory=list)
    newest: dict[EventKind, JobEvent] = field(default_factory=dict)
    progress: JobProgress | None = None
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class JobEvents:
    """Events of the jobs that have not ended, published by workers and read by clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, JobEventLog] = {}
        self._listeners: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self.closing = False

    def publish_state(self, job: Job) -> None:
        """Publish the state of a job; with its final one its log is dropped."""
        self._publish(job.id, "state", job.to_dict())
        if job.is_final:
            self.forget(job.id)

    def forget(self, job_id: str) -> None:
        """Drop the log of a job's events."""
        with self._lock:
            self._logs.pop(job_id, None)

    def publish_progress(self, job_id: str, progress: JobProgress) -> None:
        """Publish the progress of a running job to the clients that listen."""
        self._publish(job_id, "progress", asdict(progress), progress)

    def publish_preview(self, job_id: str, step: int, png: str) -> None:
        """Publish a preview of a job's image after a step, as a PNG in base64."""
        self._publish(job_id, "preview", {"step": step, "png": png})

    def get_progress(self, job_id: str) -> JobProgress | None:
        """Return the newest progress of a running job."""
        with self._lock:
            log = self._logs.get(job_id)
            return None if log is None else log.progress

    def get_preview(self, job_id: str) -> JobEvent | None:
        """Return the newest preview of a running job."""
        with self._lock:
            log = self._logs.get(job_id)
            return None if log is None else log.newest.get("preview")

    def list_after(self, job_id: str, number: int) -> list[JobEvent]:
        """Return the events of a server job that follow the event of a number, in their order."""
        with self._lock:
            log = self._logs.get(job_id)
            if log is None:
                return []
            every = [*log.states, *log.newest.values()]
        return sorted((one for one in every if one.id > number), key=lambda one: one.id)

    def has_log(self, job_id: str) -> bool:
        """Return whether a job has events that were not dropped, so that it has not ended."""
        with self._lock:
            return job_id in self._logs

    @contextmanager
    def listening(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an asyncio.Event that is set whenever a server job has new events."""
        listener = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._listeners.setdefault(job_id, set()).add(listener)
        try:
            yield listener[1]
        finally:
            with self._lock:
                listeners = self._listeners.get(job_id, set())
                listeners.discard(listener)
                if not listeners:
                    self._listeners.pop(job_id, None)

    def close(self) -> None:
        """Wake every client that listens to events of jobs, because the server ends."""
        with self._lock:
            self.closing = True
            for job_id in self._listeners:
                self._wake(job_id)

    def _publish(
        self,
        job_id: str,
        kind: EventKind,
        data: dict[str, Any],
        progress: JobProgress | None = None,
    ) -> None:
        with self._lock:
            log = self._logs.setdefault(job_id, JobEventLog())
            event = JobEvent(kind, data, next(log.numbers))
            if kind == "state":
                log.states.append(event)
            else:
                log.newest[kind] = event
            if progress is not None:
                log.progress = progress
            self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        for loop, news in self._listeners.get(job_id, ()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)
