"""The state of a server from its start to its end: the locked folder with the database, the
results and the uploads, and in memory the catalogue, the queue and the events.
"""

import shutil
from pathlib import Path

from t2i.run_folder import lock_folder
from t2i.server.catalogue import Catalogue, list_catalogue
from t2i.server.jobs.job_events import JobEvents
from t2i.server.jobs.job_queue import JobQueue
from t2i.server.jobs.retention import remove_old_jobs, remove_old_uploads, remove_orphans
from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import Uploads
from t2i.server.settings import ServerSettings

INPUTS, RESULT = "inputs", "result"
"""Folders of a job: the uploaded pictures that it took, and the files of its result."""


class ServerState:
    """State of a server, which `JobService` and `JobDispatcher` share."""

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
        self.events = JobEvents()
        self.uploads = Uploads(
            self.store, settings.folder.resolve() / "uploads", settings.min_free_bytes
        )
        self.draining = False
        self.store.queue_again()
        remove_orphans(self.store, self.folder)
        self.clean()

    def drain(self) -> None:
        """Take no new jobs and start none; those that run are finished."""
        self.draining = True
        self.queue.stop()

    def close(self) -> None:
        """Close the store and free the folder; listeners are woken."""
        self.queue.stop()
        self.events.close()
        self.store.close()
        self._lock.__exit__(None, None, None)

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

    def locate_inputs(self, job_id: str) -> Path:
        """Return the folder of the pictures that a job took."""
        return self.folder / job_id / INPUTS

    def locate_result(self, job_id: str) -> Path:
        """Return the folder of the files of a job's result."""
        return self.folder / job_id / RESULT

    def publish_state(self, job_id: str) -> None:
        """Tell the listeners of a job its state in the store."""
        self.events.publish_state(self.store.get(job_id))

    def remove_inputs(self, job_id: str) -> None:
        """Remove the pictures that a job took, if it has failed or was cancelled."""
        if self.store.get(job_id).state in ("failed", "cancelled"):
            shutil.rmtree(self.locate_inputs(job_id), ignore_errors=True)
