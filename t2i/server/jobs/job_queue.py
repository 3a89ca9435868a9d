"""The queue of jobs that wait for a worker, in the order in which they were taken."""

import threading
import time

from t2i.server.jobs.job import Job, QueueFullError
from t2i.server.jobs.store import JobStore
from t2i.terminal import plural

NUM_JOBS_FOR_FORECAST = 20
"""Finished jobs whose mean time forecasts when the queue moves."""


class JobQueue:
    """Bounded queue of the jobs in the store: workers take jobs from it, and check whether a
    running one was cancelled.
    """

    def __init__(self, store: JobStore, max_queued: int) -> None:
        self.store, self.max_queued = store, max_queued
        self._news = threading.Condition()
        self._cancelled: set[str] = set()
        self.stopped = False

    def add(self, job: Job) -> None:
        """Store a waiting job and wake the dispatcher. Raises QueueFullError."""
        if not self.store.add_unless_full(job, self.max_queued):
            retry_after = self._forecast_wait()
            raise QueueFullError(
                f"{plural(self.max_queued, 'job')} wait already: try again in "
                f"{plural(retry_after, 'second')}.",
                retry_after,
            )
        self.notify()

    def take(self, timeout: float) -> Job | None:
        """Take the oldest waiting job, waiting for one up to `timeout` seconds; None if
        none comes.
        """
        end = time.monotonic() + timeout
        with self._news:
            while not self.stopped:
                job = self.store.take_next(time.time())
                if job is not None:
                    return job
                left = end - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    return None
        return None

    def notify(self) -> None:
        """Wake the workers that wait for a job."""
        with self._news:
            self._news.notify_all()

    def stop(self) -> None:
        """Give no more jobs of the queue to workers; those that wait stay in the store."""
        with self._news:
            self.stopped = True
            self._news.notify_all()

    def request_cancel_of_running_job(self, job_id: str) -> None:
        """Request that the worker which runs a job stops it."""
        self._cancelled.add(job_id)

    def is_cancel_requested(self, job_id: str) -> bool:
        """Return True if the cancellation of a running job was requested."""
        return job_id in self._cancelled

    def forget_cancel(self, job_id: str) -> None:
        """Drop the requested cancellation of a job that has ended."""
        self._cancelled.discard(job_id)

    def _forecast_wait(self) -> int:
        durations = self.store.list_recent_durations(NUM_JOBS_FOR_FORECAST)
        return max(1, round(sum(durations) / len(durations))) if durations else 5
