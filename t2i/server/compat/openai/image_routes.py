"""Routes of OpenAI's API that draw: generations and edits."""

import io
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool

from t2i.errors import ArgumentError
from t2i.pictures import open_picture
from t2i.server.api.service_access import Owner, Service
from t2i.server.catalogue import Catalogue
from t2i.server.compat.early_checks import check_job_fields_without_pictures
from t2i.server.compat.failed_jobs import raise_if_not_done
from t2i.server.compat.openai.error_route import (
    ERROR_RESPONSES,
    OpenAIRoute,
    UnknownModelError,
)
from t2i.server.compat.openai.image_schemas import EditForm, GenerationBody, ImageBody, ImagesAnswer
from t2i.server.compat.openai.job_fields import build_image_fields, parse_output_format
from t2i.server.compat.openai.output_images import build_images_answer
from t2i.server.compat.openai.streaming import stream_images
from t2i.server.compat.openai.transparent_masks import build_edit_mask
from t2i.server.jobs.job import Job
from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.uploads import Upload
from t2i.terminal import plural

router = APIRouter(
    prefix="/v1", tags=["OpenAI"], route_class=OpenAIRoute, responses=ERROR_RESPONSES
)
EVENT_STREAM_RESPONSE = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/images/generations", response_model=ImagesAnswer, responses={200: EVENT_STREAM_RESPONSE}
)
async def generate_images(
    body: GenerationBody, request: Request, owner: Owner, service: Service
) -> ImagesAnswer | StreamingResponse:
    """Draw images of a prompt."""
    job = await run_in_threadpool(_submit, body, owner, service)
    return await _answer(body, job, request, service, "image_generation")


@router.post("/images/edits", response_model=ImagesAnswer, responses={200: EVENT_STREAM_RESPONSE})
async def edit_image(
    form: Annotated[EditForm, Form()], request: Request, owner: Owner, service: Service
) -> ImagesAnswer | StreamingResponse:
    """Change an image towards a prompt: the transparent part of the mask, or all of it."""
    job = await run_in_threadpool(_submit_edit, form, owner, service)
    return await _answer(form, job, request, service, "image_edit")


def _submit(body: ImageBody, owner: str, service: JobService) -> Job:
    """Queue the job of a body without pictures. Raises T2IError."""
    fields = build_image_fields(body, choose_model(body.model, service.catalogue))
    return service.submit("generate", GenerateRequest(**fields), owner)


def _submit_edit(form: EditForm, owner: str, service: JobService) -> Job:
    """Queue the job of an edit; what it asks for is checked before its pictures are decoded.

    Raises T2IError.
    """
    fields = build_image_fields(form, choose_model(form.model, service.catalogue))
    check_job_fields_without_pictures(fields, service)
    fields |= _upload_pictures(form, fields, owner, service)
    return service.submit("generate", GenerateRequest(**fields), owner)


def choose_model(name: str | None, catalogue: Catalogue) -> str:
    """Return the name of a listed model, the default's without one. Raises UnknownModelError."""
    if name is not None and name not in catalogue.models:
        known = ", ".join(catalogue.models)
        raise UnknownModelError(f"Unknown model {name!r:.200}: /v1/models lists {known}.")
    return catalogue.resolve_model_name(name)


async def _answer(
    body: ImageBody, job: Job, request: Request, service: JobService, event: str
) -> ImagesAnswer | StreamingResponse:
    """Return the images of a job, once it is done, or the stream of its events until then."""
    if body.stream:
        return StreamingResponse(
            stream_images(service, job, body, event),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
    job = await service.wait(job.id, job.owner)
    raise_if_not_done(job)
    address = str(request.base_url) if body.response_format == "url" else None
    return await run_in_threadpool(
        build_images_answer, service, job, body, parse_output_format(body), address
    )


def _upload_pictures(
    form: EditForm, fields: dict[str, Any], owner: str, service: JobService
) -> dict[str, str]:
    """Keep the picture and the mask of an edit; return their fields of its job."""
    files = [*form.image, *form.image_array]
    if len(files) != 1:
        raise ArgumentError(f"Got {plural(len(files), 'image')} to edit: expected one.")
    original = _upload(files[0], "image", owner, service)
    check_job_fields_without_pictures(
        {"width": original.width, "height": original.height} | fields, service
    )
    mask = None if form.mask is None else _upload(form.mask, "mask", owner, service)
    with service.uploads.decoding:
        white = build_edit_mask(
            open_picture(original.path), None if mask is None else open_picture(mask.path)
        )
        if white is None:
            return {"image": original.id}
        encoded = _encode_png(white)
    painted = service.uploads.add(encoded, "mask.png", owner)
    return {"image": original.id, "mask": painted.id}


def _upload(file: UploadFile, name: str, owner: str, service: JobService) -> Upload:
    return service.uploads.add(file.file.read(), file.filename or name, owner)


def _encode_png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
