"""Streams of OpenAI's API: previews of an image while it is drawn, then the image."""

import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool

from t2i.errors import T2IError
from t2i.pictures import FORMAT_BY_SUFFIX
from t2i.server.compat.failed_jobs import raise_if_not_done
from t2i.server.compat.openai.error_route import build_openai_error_data, find_openai_http_status
from t2i.server.compat.openai.image_schemas import ImageBody, OutputFormat, Usage
from t2i.server.compat.openai.job_fields import parse_output_format
from t2i.server.compat.openai.output_images import (
    describe_size,
    encode_result_image_base64,
    list_result_images,
)
from t2i.server.jobs.job import Job
from t2i.server.jobs.job_service import JobService

PING_INTERVAL_SECONDS = 15.0
"""Seconds without news after which a comment keeps the connection open."""
PREVIEW_QUALITY = 90


async def stream_images(
    service: JobService, job: Job, body: ImageBody, kind: str
) -> AsyncIterator[str]:
    """Stream the previews and the image of a job as text/event-stream (server-sent
    events).

    Previews are spread over the run: one comes after its half, two come after its thirds. There may
    be fewer than were asked for, if the run is short.

    kind : "image_generation" or "image_edit", with which the names of the events begin
    """
    output_format = parse_output_format(body)
    wanted, sent, newest = body.partial_images or 0, 0, ""
    async for event in service.iter_events_or_pings(job.id, job.owner, 0, PING_INTERVAL_SECONDS):
        if event is None:
            yield ": still there\n\n"
            continue
        if event.event == "preview":
            newest = str(event.data["png"])
        if newest and sent < wanted and _is_due(service.get(job.id, job.owner), sent, wanted):
            partial = await run_in_threadpool(_describe_preview, newest, body, output_format)
            partial["partial_image_index"] = sent
            yield format_event(f"{kind}.partial_image", partial)
            newest, sent = "", sent + 1
    job = service.get(job.id, job.owner)
    try:
        raise_if_not_done(job)
        for file in list_result_images(job):
            data = await run_in_threadpool(
                encode_result_image_base64, service, job, file, body, output_format
            )
            size = describe_size(file)
            described = _describe_image(data, size, body, output_format)
            described |= {"usage": Usage().model_dump(), "seed": file.seed, "job_id": job.id}
            yield format_event(f"{kind}.completed", described)
    except T2IError as error:
        failure = build_openai_error_data(
            type(error).__name__, str(error), find_openai_http_status(error)
        )
        yield format_event("error", dict(failure))


def _is_due(job: Job, sent: int, wanted: int) -> bool:
    """Return whether it is time for another preview, with so many sent of those that are wanted."""
    progress = job.progress
    if progress is None or progress.step >= progress.steps:
        return False
    return progress.step * (wanted + 1) >= (sent + 1) * progress.steps


def format_event(name: str, data: dict[str, Any]) -> str:
    """Format an event of a job as text/event-stream (server-sent events)."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"


def _describe_preview(png: str, body: ImageBody, output_format: OutputFormat) -> dict[str, Any]:
    """Return the data of a preview in a format; its size is its own, smaller than the image's."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        size = f"{picture.width}x{picture.height}"
        if output_format != "png":
            stream = io.BytesIO()
            picture.convert("RGB").save(
                stream, FORMAT_BY_SUFFIX[f".{output_format}"], quality=PREVIEW_QUALITY
            )
            png = base64.b64encode(stream.getvalue()).decode("ascii")
    return _describe_image(png, size, body, output_format)


def _describe_image(
    b64_json: str, size: str, body: ImageBody, output_format: OutputFormat
) -> dict[str, Any]:
    return {
        "b64_json": b64_json,
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": output_format,
        "quality": "auto",
        "size": size,
        "safety_identifier": body.safety_identifier or body.user,
    }
