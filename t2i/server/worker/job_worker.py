"""The worker: it owns the models of one device, and runs one job after another.

Whoever deploys it brings the jobs: a pipe (worker_process.py) or Ray Serve (t2i/server/ray/).
"""

import errno
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from t2i.errors import T2IError
from t2i.library_messages import quieting_libraries
from t2i.server.jobs.job import JobCancelledError, JobFailure, JobResult
from t2i.server.jobs.worker_job import FailureMessage, JobOutcome, Report, WorkerJobInputs
from t2i.server.settings import WorkerSettings
from t2i.server.worker.job_run import MAX_MESSAGE_LETTERS
from t2i.server.worker.model_cache import ModelCache
from t2i.server.worker.run_batch import run_batch
from t2i.server.worker.run_job import run_job
from t2i.server.worker.source_cache import RecordedSourceCache
from t2i.text.encoders.output_cache import TextOutputCache, keeping_text_outputs

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class JobWorker:
    """Owner of the models of one device: runs one job at a time, or a batch of equal ones."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.models = ModelCache(
            settings.models, choose_device(settings.device_number), settings.model_bytes
        )
        self.sources = RecordedSourceCache()
        self.text_outputs = TextOutputCache()

    def load_default_model(self) -> str | None:
        """Load the worker's default model; return None, or as text why it does not load."""
        try:
            with quieting_libraries():  # held by the cache alone, which may evict it
                self.models.get_or_load(next(iter(self.settings.models)))
        except Exception as error:
            _free_memory()
            return f"{type(error).__name__}: {error}"[:MAX_MESSAGE_LETTERS]
        return None

    def run_job(self, job: WorkerJobInputs, report: Report) -> JobResult | FailureMessage:
        """Run a job and return its result, or why it failed: other jobs may fare better.

        Raises JobCancelledError where `report` does, and what `report` raises for a lost connection
        (EOFError, ConnectionError).
        """
        try:
            with keeping_text_outputs(self.text_outputs):
                return run_job(job, self.models, self.sources, report, self.settings.preview_share)
        except (JobCancelledError, EOFError, ConnectionError):
            raise
        except Exception as error:
            failure = _describe_failure(job, error)
            _free_memory()
            return failure

    def run_jobs_as_batch(
        self,
        jobs: Sequence[WorkerJobInputs],
        reports: Sequence[Report],
        end: Callable[[int, JobOutcome], None],
    ) -> None:
        """Run jobs of equal settings in one batch, or one after the other if the batch fails, and
        call `end` with the number and outcome of each.

        Where the batch fails, each of its jobs is run alone: the fault may be that of one of them,
        or of too little memory for all.

        end : is called with the number of each job and its outcome once it has ended
        """
        ended: set[int] = set()

        def note(number: int, outcome: JobOutcome) -> None:
            ended.add(number)
            end(number, outcome)

        if len(jobs) > 1 and self._run_batch(jobs, reports, note):
            return
        for number, job in enumerate(jobs):
            if number not in ended:
                try:
                    outcome: JobOutcome = self.run_job(job, reports[number])
                except JobCancelledError:
                    outcome = "cancelled"
                note(number, outcome)

    def _run_batch(
        self,
        jobs: Sequence[WorkerJobInputs],
        reports: Sequence[Report],
        note: Callable[[int, JobOutcome], None],
    ) -> bool:
        """Run jobs in one batch; return False if it failed, with their folders empty again."""
        share = self.settings.preview_share
        try:
            with keeping_text_outputs(self.text_outputs):
                results = run_batch(
                    jobs, self.models, reports, lambda number: note(number, "cancelled"), share
                )
        except JobCancelledError:
            return True
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            if not isinstance(error, T2IError):
                traceback.print_exception(error)
            _free_memory()
            for job in jobs:
                for path in job.folder.iterdir():
                    path.unlink()
            return False
        for number, result in enumerate(results):
            if result is not None:
                note(number, result)
        return True


def _describe_failure(job: WorkerJobInputs, error: Exception) -> FailureMessage:
    """Describe an error for the client; one that no request should cause is printed here."""
    cause = error if isinstance(error, OSError) else error.__cause__
    disk_full = isinstance(cause, OSError) and cause.errno in DISK_FULL_ERRNOS
    if isinstance(error, T2IError):
        message = str(error)
        for path, name in job.picture_names.items():
            message = message.replace(path, name)
    else:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
    return FailureMessage(
        JobFailure(type(error).__name__, message[:MAX_MESSAGE_LETTERS]), disk_full
    )


def choose_device(number: int) -> Any:
    """Return the torch device of a worker: accelerator `number`, where there are several."""
    import torch

    from t2i.accelerate_state import default_device

    device = default_device()
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return torch.device("cuda", number % torch.cuda.device_count())
    return device


def _free_memory() -> None:
    """Free cached device memory after a failed job, for the next one."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
