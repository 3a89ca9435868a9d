"""A job of the server: one request with its state, its result or its error."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from t2i.errors import T2IError

JobKind = Literal["generate", "edit", "invert", "remember", "inspect"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL_STATES: tuple[JobState, ...] = ("done", "failed", "cancelled")
ID_BYTES = 16
"""Random bytes of an identifier: 22 characters that nobody guesses."""


class JobNotFoundError(T2IError):
    """Error for a job, a file or an upload that is not there, or belongs to another token."""


class QueueFullError(T2IError):
    """Error for a job that the full queue refuses.

    retry_after_s : seconds after which it may be taken
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFullError(T2IError):
    """Error for a job or an upload for which the disk has no room."""


class ServerStoppingError(T2IError):
    """Error for a request to a server that is about to end."""


class JobCancelledError(T2IError):
    """Error of a run whose job was cancelled; also for results that there will never be."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """File of a job's result: its name below the job, media type, size in pixels and seed."""

    name: str
    media_type: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a job: its files, and data about them."""

    files: tuple[ResultFile, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of a server job as JSON data."""
        return {"files": [asdict(file) for file in self.files], "data": dict(self.data)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "JobResult":
        """Build the result of a server job from its JSON data."""
        return cls(tuple(ResultFile(**file) for file in values["files"]), values["data"])


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Progress of a running job: steps done, number of steps, and estimated seconds left."""

    step: int
    steps: int
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Error of a failed job: the name of its class and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Job of the server: a request with its owner, state, times, and its result or error.

    request : as it was given, JSON data that t2i.server.jobs.job_request reads
    owner : digest of the token that gave it, "" without one
    seeds : of its images, fixed when it was taken
    created, started, finished : seconds since 1970
    """

    id: str
    kind: JobKind
    state: JobState
    request: Mapping[str, Any]
    owner: str
    seeds: tuple[int, ...]
    created: float
    started: float | None = None
    finished: float | None = None
    result: JobResult | None = None
    error: JobFailure | None = None
    progress: JobProgress | None = None

    @property
    def is_final(self) -> bool:
        """True once the state of the job cannot change any more."""
        return self.state in FINAL_STATES

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON data, without its owner."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "request": dict(self.request),
            "seeds": list(self.seeds),
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "result": None if self.result is None else self.result.to_dict(),
            "error": None if self.error is None else asdict(self.error),
            "progress": None if self.progress is None else asdict(self.progress),
        }


def create_identifier() -> str:
    """Return a random identifier of 22 characters that are safe in addresses and file names."""
    return secrets.token_urlsafe(ID_BYTES)
