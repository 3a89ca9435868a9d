"""The web application before the workers of Ray Serve: it checks requests, and waits for them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel

from t2i import __version__
from t2i.server.api import documentation, models
from t2i.server.api.schemas import ResultFileAnswer
from t2i.server.app import ERROR_RESPONSES, add_error_handlers, build_middleware
from t2i.server.catalogue import build_catalogue
from t2i.server.compat.failed_jobs import build_failure_error
from t2i.server.jobs.job import JobFailure
from t2i.server.ray.inline_job import (
    InlineJob,
    InlineResult,
    NewRun,
    check_inline_job_and_choose_seeds,
    create_inline_job,
)
from t2i.server.security.body_text import check_body_encodable_as_utf8
from t2i.server.settings import ServerSettings

Draw = Callable[[InlineJob], Awaitable[InlineResult | JobFailure]]
"""Runs a job on one of the workers."""
router = APIRouter(prefix="/api/v1", tags=["runs"])


class InlineResultFileAnswer(ResultFileAnswer):
    """File of a run's result with its content as base64."""

    base64: str


class RunResultAnswer(BaseModel):
    """Answer with the result of a run on a Ray worker: the seeds, the files, and data about
    them.
    """

    seeds: list[int]
    files: list[InlineResultFileAnswer]
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkersReadiness:
    """Readiness of the workers as the API's health route shows it; always ready here, as Ray itself
    waits until workers are.
    """

    ready: bool = True
    problem: str | None = None


def create_replica_app(settings: ServerSettings, draw: Draw) -> FastAPI:
    """Create the web application of a Ray Serve replica, whose jobs the function `draw` runs; it
    stores none of them.
    """
    app = FastAPI(
        title="t2i",
        version=__version__,
        summary="Text-to-image conditioning: pictures, edits and heat maps by Ray's workers.",
        docs_url=None,
        redoc_url=None,
        middleware=build_middleware(settings),
        responses=ERROR_RESPONSES,
        dependencies=[Depends(check_body_encodable_as_utf8)],
    )
    app.root_path = settings.root_path
    app.state.catalogue = build_catalogue(settings)
    app.state.pool, app.state.settings, app.state.draw = WorkersReadiness(), settings, draw
    for one in (router, models.router, documentation.router):
        app.include_router(one)
    add_error_handlers(app)
    return app


@router.post("/run")
async def run_job(new: NewRun, request: Request) -> RunResultAnswer:
    """Run a job on a free worker, and answer with its files. Without the client it is cancelled."""
    state = request.app.state
    job = await anyio.to_thread.run_sync(
        create_checked_inline_job, new, state.catalogue, state.settings.max_pixels_x_steps
    )
    outcome = await state.draw(job)
    if isinstance(outcome, JobFailure):
        raise build_failure_error(outcome)
    return RunResultAnswer.model_validate({"seeds": job.seeds, **outcome.to_dict()})


def create_checked_inline_job(new: NewRun, catalogue: Any, max_pixels_x_steps: int) -> InlineJob:
    """Build the job of a request body for a worker on another machine, check it and choose its
    seeds. Raises T2IError.
    """
    job = create_inline_job(new)
    return replace(job, seeds=check_inline_job_and_choose_seeds(job, catalogue, max_pixels_x_steps))
