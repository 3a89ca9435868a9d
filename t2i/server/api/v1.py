"""Routes of jobs: create, list, look at, cancel, listen, and read the files of their results."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import FileResponse, StreamingResponse

from t2i.server.api.export import build_export_answer
from t2i.server.api.schemas import ExportAnswer, JobAnswer, JobsAnswer, MapsAnswer
from t2i.server.api.service_access import Owner, Service
from t2i.server.jobs.job import JobNotFoundError
from t2i.server.jobs.job_events import JobEvent
from t2i.server.jobs.job_request import NewJob
from t2i.server.jobs.job_service import JobService

router = APIRouter(prefix="/api/v1", tags=["jobs"])
PING_INTERVAL_SECONDS = 15.0
"""Seconds without news after which a comment keeps the connection of a listener open."""
JobId = Annotated[str, Path(max_length=100, examples=["AAAAAAAAAAAAAAAAAAAAAA"])]


@router.post("/jobs", status_code=202)
def create_job(new: NewJob, service: Service, owner: Owner) -> JobAnswer:
    """Queue a job, and answer at once with its identifier and its seeds."""
    return JobAnswer.from_job(service.submit(new.kind, new.request, owner))


@router.get("/jobs")
def list_jobs(
    service: Service,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(max_length=100)] = None,
) -> JobsAnswer:
    """List the jobs of this token, the newest first; those before another one, if it is named."""
    jobs = service.list(owner, limit, before)
    return JobsAnswer(jobs=[JobAnswer.from_job(job) for job in jobs])


@router.get("/jobs/{job_id}")
def read_job(job_id: JobId, service: Service, owner: Owner) -> JobAnswer:
    """Answer with a job as it is now."""
    return JobAnswer.from_job(service.get(job_id, owner))


@router.delete("/jobs/{job_id}")
def cancel_job(job_id: JobId, service: Service, owner: Owner) -> JobAnswer:
    """Cancel a job: a waiting one at once, a running one after its step."""
    return JobAnswer.from_job(service.cancel(job_id, owner))


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def listen_to_job(
    job_id: JobId,
    service: Service,
    owner: Owner,
    cancel_on_disconnect: bool = False,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> StreamingResponse:
    """Stream the events of a job: `state`, `progress` and `preview`; the last is its final state.

    A client that goes away cancels nothing, unless it asks for that.
    """
    service.get(job_id, owner)
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    return StreamingResponse(
        _stream(service, job_id, owner, after, cancel=cancel_on_disconnect),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def _stream(
    service: JobService, job_id: str, owner: str, after: int, *, cancel: bool
) -> AsyncIterator[str]:
    ended = False
    try:
        async for event in service.iter_events_or_pings(
            job_id, owner, after, PING_INTERVAL_SECONDS
        ):
            yield ": still there\n\n" if event is None else format_event(event)
            ended = event is not None and event.is_final
    finally:
        if cancel and not ended and not service.is_closing:  # the client left, not the server
            service.cancel(job_id, owner)


def format_event(event: JobEvent) -> str:
    """Format an event of a job as text/event-stream (server-sent events)."""
    return f"id: {event.id}\nevent: {event.event}\ndata: {json.dumps(event.data)}\n\n"


@router.get(
    "/jobs/{job_id}/files/{name}",
    response_class=FileResponse,
    responses={
        200: {
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    },
)
def read_file(
    job_id: JobId, name: Annotated[str, Path(max_length=300)], service: Service, owner: Owner
) -> FileResponse:
    """Answer with a file of a job's result."""
    path = service.find_result_file(job_id, owner, name)
    job = service.get(job_id, owner)
    assert job.result is not None
    (file,) = (one for one in job.result.files if one.name == name)
    return FileResponse(
        path,
        media_type=file.media_type,
        headers={"cache-control": "private, max-age=31536000, immutable"},
    )


@router.get("/jobs/{job_id}/maps")
def read_maps(
    job_id: JobId,
    service: Service,
    owner: Owner,
    picture: Annotated[int, Query(ge=0, le=100)] = 0,
) -> MapsAnswer:
    """Answer with the words of a picture whose heat maps are kept, and where these are.

    Of an edit the source is picture 0, and the targets count from 1.
    """
    job = service.get(job_id, owner)
    maps = {} if job.result is None else job.result.data.get("maps", {})
    if str(picture) not in maps:
        raise JobNotFoundError(
            "The job has no heat maps of this picture: ask for them with words_maps when it is "
            "created, and wait until it is done."
        )
    return MapsAnswer.model_validate(maps[str(picture)])


@router.post("/export")
def export_request(new: NewJob, service: Service) -> ExportAnswer:
    """Write a request as a command, as Python, and as the body that creates its job."""
    return build_export_answer(new, service.catalogue)
