"""The state of a server from its start to its end: the locked folder with the database, the
results and the uploads, and in memory the catalogue, the queue and the events.
"""

import logging
import shutil
import sqlite3
import threading
import time
from pathlib import Path

from t2i.errors import T2IError
from t2i.run_folder import locking_folder
from t2i.server.catalogue import Catalogue, build_catalogue
from t2i.server.jobs.job import Job, JobFailure, StorageFullError
from t2i.server.jobs.job_events import JobEvents
from t2i.server.jobs.job_queue import JobQueue
from t2i.server.jobs.retention import (
    GRACE,
    RetentionLimits,
    remove_old_files,
    remove_orphan_job_folders,
    remove_orphan_uploads,
)
from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import UploadStore, check_free_space
from t2i.server.settings import ServerSettings
from t2i.terminal import plural

logger = logging.getLogger(__name__)
MAX_INTERRUPTIONS = 3
"""Times that a job may be running when its worker, or the whole server, ends by force."""
INPUTS, RESULT = "inputs", "result"
"""Folders of a job: the uploaded pictures that it took, and the files of its result."""


class ServerState:
    """State of a server that `JobService` and `JobDispatcher` share: settings, catalogue, job
    store, queue, events and uploads.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Open the folder of the settings; jobs that ran when the last server ended wait again.

        Raises OutputError where another server uses the folder.
        """
        self.settings = settings
        self.catalogue: Catalogue = build_catalogue(settings)
        self._lock = locking_folder(settings.folder)
        self._lock.__enter__()
        self.folder = settings.folder.resolve() / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = JobStore(settings.folder / "jobs.sqlite")
        self.queue = JobQueue(self.store, settings.max_queued)
        self.events = JobEvents()
        self.uploads = UploadStore(
            self.store, settings.folder.resolve() / "uploads", self.ensure_free_space
        )
        self.draining = False
        self._cleaning, self._closed = threading.Lock(), threading.Event()
        self._timer = threading.Thread(target=self._clean_at_intervals, name="clean", daemon=True)
        self._queue_interrupted_jobs()
        remove_orphan_job_folders(self.store, self.folder)
        remove_orphan_uploads(self.uploads, 0)
        self.remove_expired_files()

    def start_periodic_cleanup(self) -> None:
        """Start the thread that removes expired results and uploads of a server at intervals, until
        the state is closed.
        """
        self._timer.start()

    def begin_draining(self) -> None:
        """Take no new jobs and start none, because the server is about to end; running jobs are
        finished.
        """
        self.draining = True
        self.queue.stop()

    def close(self) -> None:
        """Close a server's job store, free its folder for another server, and wake the clients that
        listen to events.
        """
        self._closed.set()
        if self._timer.is_alive():
            self._timer.join()
        self.queue.stop()
        self.events.close()
        self.store.close()
        self._lock.__exit__(None, None, None)

    def remove_expired_files(self, *, upload_age: float | None = None) -> None:
        """Remove results and uploads that are too old, and the oldest ones while all together take
        too many bytes.

        upload_age : seconds that uploads are kept; None for those of the settings
        """
        settings = self.settings
        with self._cleaning:
            needed = frozenset(
                source
                for job in self.store.list_active()
                if isinstance(source := job.request.get("source"), str)
            )
            bounds = RetentionLimits(
                max_bytes=settings.max_bytes,
                max_age=settings.max_age,
                upload_age=settings.upload_age if upload_age is None else upload_age,
                needed=needed,
            )
            remove_old_files(self.store, self.folder, self.uploads, bounds)
            remove_orphan_uploads(self.uploads, GRACE)

    def ensure_free_space(self) -> None:
        """Raise StorageFullError if the disk has too little free space, after everything was
        removed that may go: what is too old, and uploads that are not new.
        """
        try:
            check_free_space(self.folder, self.settings.min_free_bytes)
        except StorageFullError:
            self.remove_expired_files(upload_age=min(self.settings.upload_age, GRACE))
            check_free_space(self.folder, self.settings.min_free_bytes)

    def get_input_folder(self, job_id: str) -> Path:
        """Return the folder of the pictures that a job took."""
        return self.folder / job_id / INPUTS

    def get_result_folder(self, job_id: str) -> Path:
        """Return the folder of the files of a job's result."""
        return self.folder / job_id / RESULT

    def publish_state(self, job_id: str) -> None:
        """Tell the listeners of a job its state in the store."""
        self.events.publish_state(self.store.get(job_id))

    def remove_inputs_if_failed_or_cancelled(self, job_id: str) -> None:
        """Remove the pictures that a job took, if it has failed or was cancelled."""
        if self.store.get(job_id).state in ("failed", "cancelled"):
            shutil.rmtree(self.get_input_folder(job_id), ignore_errors=True)

    def count_interruption_or_fail_job(self, job: Job, reason: str) -> bool:
        """Count that a job's worker process ended while it ran, and fail the job if that was too
        often.

        reason : how the worker ended
        Returns True if the job is to be tried again.
        """
        count = self.store.increment_interruption_count(job.id)
        if count < MAX_INTERRUPTIONS:
            return True
        failure = JobFailure(
            "GenerationError",
            f"The job was begun {plural(count, 'time')}, and its worker process ended each time, "
            f"at last {reason}, perhaps for lack of memory. It is not tried again: ask for a "
            "smaller size or fewer pictures at once.",
        )
        self.store.finish(job.id, "failed", time.time(), error=failure)
        shutil.rmtree(self.get_result_folder(job.id), ignore_errors=True)
        self.remove_inputs_if_failed_or_cancelled(job.id)
        return False

    def _queue_interrupted_jobs(self) -> None:
        """Queue what ran when the last server ended again; a job that ended it too often fails."""
        for job in self.store.list_active():
            if job.state == "running" and self.count_interruption_or_fail_job(
                job, "with the server"
            ):
                self.store.queue_again(job.id)

    def _clean_at_intervals(self) -> None:
        while not self._closed.wait(self.settings.clean_interval):
            try:
                self.remove_expired_files()
            except (T2IError, OSError, sqlite3.Error):  # the next time may fare better
                logger.exception("Old results and uploads could not be removed.")
