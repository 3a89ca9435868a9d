"""A job as a worker process is given it, and the messages between both sides of its pipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from t2i.server.jobs.job import JobFailure, JobKind, JobProgress, JobResult
from t2i.server.jobs.job_request import JobRequest
from t2i.server.jobs.request_building import ResolvedJobRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJobInputs:
    """Job with everything that a worker needs to run it.

    folder : an empty one, for the files of the result
    picture_names : path of an uploaded picture -> its own name, which metadata record
    source_id, source_folder : the recorded source that it edits or looks into
    """

    id: str
    kind: JobKind
    body: JobRequest
    built: ResolvedJobRequest
    seeds: tuple[int, ...]
    folder: Path
    picture_names: Mapping[str, str] = field(default_factory=dict)
    source_id: str | None = None
    source_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class PreviewMessage:
    """Message of a worker process with a preview of a job's image after a step: a PNG in base64."""

    step: int
    png: str


@dataclass(frozen=True, slots=True)
class ReadyMessage:
    """Message of a worker process that it takes jobs, and whether it has loaded the default model.

    model_loaded : whether the default model is in its memory
    failure : why the default model does not load
    """

    model_loaded: bool
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class FailureMessage:
    """Message of a worker process that a job has failed; `disk_full` if another try may succeed."""

    failure: JobFailure
    disk_full: bool = False


@dataclass(frozen=True, slots=True)
class CancelMessage:
    """Message to a worker process: stop a running job."""

    job_id: str


JobOutcome = JobResult | FailureMessage | Literal["cancelled"]
"""How a job has ended."""


@dataclass(frozen=True, slots=True)
class JobUpdateMessage:
    """Message of a worker process about one of its jobs: progress, a preview, or the outcome."""

    job_id: str
    message: JobProgress | PreviewMessage | JobOutcome


Report = Callable[[JobProgress | PreviewMessage], None]
"""Sends news of the running job; raises JobCancelledError when it is to stop."""
