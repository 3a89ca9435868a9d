"""A worker process: it owns the models, and runs one job after another that a pipe brings."""

import errno
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from t2i.errors import T2IError
from t2i.server.jobs.job import JobCancelledError, JobFailure
from t2i.server.jobs.worker_job import FailureMessage, ReadyMessage, WorkerJob

CANCEL_MESSAGE = "cancel"
"""Message to a worker: stop the running job."""
LOAD_MESSAGE = "load"
"""Message to a worker: load the default model, and answer with a ReadyMessage."""
MAX_MESSAGE_LETTERS = 2_000
"""Letters of an error that is stored."""
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker process.

    models : name -> folder or file; the first is the default
    loads_default : whether the default model is loaded before jobs are taken
    device_number : of the accelerator that it uses, where there are several
    """

    models: Mapping[str, Path]
    device_number: int
    model_bytes: int | None
    preview_share: float
    loads_default: bool = True


def run_worker(connection: Connection, settings: WorkerSettings) -> None:
    """Load the default model, then run the jobs that the connection brings until it is closed; also
    if the model does not load, for others may.

    Signals of the terminal are for the server, which closes the connection.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(connection, settings)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server has ended
    finally:
        sys.stdout.flush()


def _serve(connection: Connection, settings: WorkerSettings) -> None:
    # Here, for they take seconds, in which the server can already answer.
    from t2i.library_messages import quiet_libraries
    from t2i.server.worker.model_cache import ModelCache
    from t2i.server.worker.run_job import run_job
    from t2i.server.worker.source_cache import SourceCache

    models = ModelCache(
        settings.models, choose_device(settings.device_number), settings.model_bytes
    )
    sources = SourceCache()

    def load_default() -> ReadyMessage:
        try:
            with quiet_libraries():
                models.get(
                    next(iter(settings.models))
                )  # held by the cache alone, which may evict it
        except Exception as error:
            _free_memory()
            return ReadyMessage(False, f"{type(error).__name__}: {error}"[:MAX_MESSAGE_LETTERS])
        return ReadyMessage(True)

    connection.send(load_default() if settings.loads_default else ReadyMessage(False))
    while True:
        job = connection.recv()
        if job == CANCEL_MESSAGE:  # of a job that has just ended
            continue
        if job == LOAD_MESSAGE:
            connection.send(load_default())
            continue
        try:
            result = run_job(
                job, models, sources, _build_report(connection), settings.preview_share
            )
        except JobCancelledError:
            connection.send("cancelled")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # whatever it is, other jobs may fare better
            connection.send(_describe_failure(job, error))
            _free_memory()
        else:
            connection.send(result)


def _build_report(connection: Connection) -> Any:
    def report(message: object) -> None:
        while connection.poll():
            if connection.recv() == CANCEL_MESSAGE:
                raise JobCancelledError("The job was cancelled.")
        connection.send(message)

    return report


def _describe_failure(job: WorkerJob, error: Exception) -> FailureMessage:
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
