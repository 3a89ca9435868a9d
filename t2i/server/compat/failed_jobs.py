"""Errors of jobs that failed, for routes that wait for their job."""

from t2i.errors import (
    ArgumentError,
    AttentionError,
    DataError,
    GenerationError,
    ModelError,
    OutputError,
    T2IError,
)
from t2i.server.jobs.job import Job, JobCancelledError, JobFailure, ServerStoppingError

ERROR_CLASS_BY_NAME: dict[str, type[T2IError]] = {
    kind.__name__: kind
    for kind in (ArgumentError, AttentionError, DataError, GenerationError, ModelError, OutputError)
}
"""Name of an error that a job may record -> its class; of others GenerationError."""


def raise_if_not_done(job: Job) -> None:
    """Raise the error of a job that failed, was cancelled, or is interrupted by the
    server's end.

    An unknown error of the worker becomes a GenerationError.
    """
    if job.error is not None:
        raise build_failure_error(job.error)
    if job.state == "cancelled":
        raise JobCancelledError(f"The job {job.id} was cancelled before it was done.")
    if not job.is_final:
        raise ServerStoppingError(f"The server stops; the job {job.id} is drawn when it is back.")


def build_failure_error(failure: JobFailure) -> T2IError:
    """Return the error that a failure of a job records; a GenerationError for an unknown one."""
    return ERROR_CLASS_BY_NAME.get(failure.type, GenerationError)(failure.message)
