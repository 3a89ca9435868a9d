"""Deployments of Ray Serve: workers that own the models, and the web application before them."""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field

from t2i.errors import ArgumentError, ModelError
from t2i.optional_dependencies import build_install_command
from t2i.server.catalogue import build_catalogue
from t2i.server.command import TOKEN_VARIABLE
from t2i.server.jobs.job import (
    JobCancelledError,
    JobFailure,
    JobResult,
    QueueFullError,
    create_identifier,
)
from t2i.server.jobs.worker_job import FailureMessage, WorkerJobInputs
from t2i.server.ray.inline_job import InlineJob, InlineResult, run_inline_job
from t2i.server.ray.routes import create_replica_app
from t2i.server.settings import (
    GIBIBYTE,
    SWITCH_SECONDS,
    ServerSettings,
    WorkerSettings,
    check_access_tokens,
)
from t2i.terminal import plural

RETRY_AFTER_SECONDS = 5
DRAIN_SECONDS = 600.0
"""Seconds that a running picture has when its worker is to end."""


class ServeArguments(BaseModel):
    """Arguments of the Ray Serve application, `args` in a config file of Ray Serve.

    models : names or folders on every machine; the first is the default
    lora_dir, embedding_dir, control_dir : files that requests may name, the same on every machine
    allowed_hosts : names by which clients call it, beside those of the machine itself
    model_gib : of models together in one worker's memory
    max_queued : requests that wait for a worker
    """

    model_config = ConfigDict(extra="forbid")

    models: list[str] = ["embedded"]
    lora_dir: str = "loras"
    embedding_dir: str = "embeddings"
    control_dir: str = "controls"
    allowed_hosts: list[str] = []
    model_gib: float | None = Field(default=None, ge=0)
    max_queued: int = Field(default=256, ge=1)
    root_path: str = ""


class FailedRunError(Exception):
    """Error that carries the failure of a job out of the function that runs it."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class PictureWorker:
    """Ray Serve deployment of a worker: each replica owns the models of its device, and runs one
    job after the other.
    """

    def __init__(self, settings: ServerSettings) -> None:
        from t2i.server.worker.job_worker import JobWorker

        sys.setswitchinterval(SWITCH_SECONDS)  # Ray asks for the length of its queue meanwhile
        self.catalogue = build_catalogue(settings)
        self.worker = JobWorker(
            WorkerSettings(models=self.catalogue.models, model_bytes=settings.model_bytes)
        )
        self.lock = threading.Lock()
        self.identifier = create_identifier()
        if (problem := self.worker.load_default_model()) is not None:
            raise ModelError(problem)

    async def draw(self, job: InlineJob) -> InlineResult | JobFailure:
        """Run a job of any kind on this Ray replica, in a thread, so that Ray can ask for the
        replica's health meanwhile.

        If the caller goes away, the job stops after its step.
        """
        gone = threading.Event()

        def report(_message: object) -> None:
            if gone.is_set():
                raise JobCancelledError("The client has gone away.")

        def run(worker_job: WorkerJobInputs) -> JobResult:
            outcome = self.worker.run_job(worker_job, report)
            if isinstance(outcome, FailureMessage):
                raise FailedRunError(outcome.failure)
            return replace(outcome, data={**outcome.data, "worker": self.identifier})

        try:
            return await anyio.to_thread.run_sync(self._run_alone, job, run, abandon_on_cancel=True)
        except FailedRunError as error:
            return error.failure
        finally:
            gone.set()

    def _run_alone(
        self, job: InlineJob, run: Callable[[WorkerJobInputs], JobResult]
    ) -> InlineResult:
        # A cancelled job may still be at its step: a pipeline must not draw two at once.
        with self.lock:
            return run_inline_job(job, self.catalogue, run)


def build_settings(arguments: ServeArguments) -> ServerSettings:
    """Return the server settings of the Ray Serve application and of its workers.

    Raises ArgumentError without a token in the environment: Ray's proxies may listen at every
    address of a machine, and this application cannot know.
    """
    tokens = tuple(os.environ.get(TOKEN_VARIABLE, "").split())
    if not tokens:
        raise ArgumentError(
            f"Missing {TOKEN_VARIABLE} in the environment in which Ray was started: anybody who "
            f'reaches the cluster could use it. Set it, as in export {TOKEN_VARIABLE}="$(openssl '
            'rand -hex 16)".'
        )
    check_access_tokens(tokens, TOKEN_VARIABLE)
    return ServerSettings(
        models=tuple(arguments.models),
        tokens=tokens,
        lora_folder=Path(arguments.lora_dir),
        embedding_folder=Path(arguments.embedding_dir),
        control_folder=Path(arguments.control_dir),
        allowed_hosts=tuple(arguments.allowed_hosts),
        model_bytes=None if arguments.model_gib is None else int(arguments.model_gib * GIBIBYTE),
        max_queued=arguments.max_queued,
        root_path=arguments.root_path.rstrip("/"),
    )


def app(args: ServeArguments) -> Any:
    """Build the application for Ray Serve: `PictureWorker` deployments behind one `Gate`."""
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ArgumentError(
            "Deploying workers needs Ray Serve, which is not installed: "
            f"{build_install_command('ray')}"
        ) from error
    settings = build_settings(args)
    worker = serve.deployment(
        PictureWorker,
        name="PictureWorker",
        max_ongoing_requests=1,
        max_queued_requests=settings.max_queued,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
    ).bind(settings)
    gate = serve.deployment(serve.ingress()(Gate), name="Gate")
    return gate.bind(settings, worker)


class Gate:
    """Ray Serve ingress deployment: the web application that checks requests and passes them to the
    `PictureWorker` replicas.
    """

    def __init__(self, settings: ServerSettings, workers: Any) -> None:
        self.settings, self.workers = settings, workers

    def __serve_build_asgi_app__(self) -> Any:
        """Build the web application of this replica."""
        return create_replica_app(self.settings, self.draw)

    async def draw(self, job: InlineJob) -> InlineResult | JobFailure:
        """Run a job of any kind on a free Ray worker and return its result or failure. Raises
        QueueFullError.
        """
        from ray.serve.exceptions import BackPressureError

        try:
            outcome: InlineResult | JobFailure = await self.workers.draw.remote(job)
        except BackPressureError as error:
            raise QueueFullError(
                f"{plural(self.settings.max_queued, 'job')} wait already: try again in "
                f"{RETRY_AFTER_SECONDS} seconds.",
                RETRY_AFTER_SECONDS,
            ) from error
        return outcome
