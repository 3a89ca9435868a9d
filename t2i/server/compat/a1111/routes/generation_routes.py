"""Routes of A1111's API that draw: txt2img and img2img."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.cli.request.request import choose_seeds
from t2i.errors import ArgumentError
from t2i.safe_reading import PICTURE_KIND, read_bytes
from t2i.server.api.service_access import Owner, Service
from t2i.server.compat.a1111.answers.error_route import ERROR_RESPONSES, A1111Route
from t2i.server.compat.a1111.answers.generation_info import build_info_json, echo_body_as_parameters
from t2i.server.compat.a1111.answers.response_schemas import GenerationAnswer
from t2i.server.compat.a1111.request.bodies import GenerationBody, Img2ImgBody, Txt2ImgBody
from t2i.server.compat.a1111.request.encoded_pictures import encode_base64
from t2i.server.compat.a1111.request.init_images import (
    paste_into_init_image,
    upload_init_images_as_job_fields,
)
from t2i.server.compat.a1111.request.job_fields import (
    build_img2img_fields,
    build_txt2img_fields,
    count_pictures,
)
from t2i.server.compat.a1111.state.client_state import A1111State, State
from t2i.server.compat.a1111.state.tasks import Task
from t2i.server.compat.failed_jobs import raise_if_not_done
from t2i.server.jobs.job import Job
from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.request_building import check_pixel_steps_limit, resolve_job_request

router = APIRouter(
    prefix="/sdapi/v1", tags=["A1111"], route_class=A1111Route, responses=ERROR_RESPONSES
)


@router.post("/txt2img")
async def draw_text(
    body: Txt2ImgBody, owner: Owner, service: Service, state: State
) -> GenerationAnswer:
    """Draw pictures of a prompt."""
    model = _choose_model(body, owner, state)
    fields = build_txt2img_fields(body, model, service.catalogue.embeddings)
    return await _draw(GenerationContext(body, fields, owner, service, state))


@router.post("/img2img")
async def draw_over_picture(
    body: Img2ImgBody, owner: Owner, service: Service, state: State
) -> GenerationAnswer:
    """Change a picture towards a prompt; with a mask only its white part."""
    model = _choose_model(body, owner, state)
    fields = build_img2img_fields(body, model, service.catalogue.embeddings)
    pictures = await run_in_threadpool(
        upload_init_images_as_job_fields, body, fields, owner, service
    )
    return await _draw(GenerationContext(body, fields | pictures, owner, service, state))


@dataclass(frozen=True)
class GenerationContext:
    """Context of one A1111 txt2img or img2img call: its body, the fields of its jobs, its owner,
    and the service and state that serve it.
    """

    body: GenerationBody
    fields: dict[str, Any]
    owner: str
    service: JobService
    state: A1111State


def _choose_model(body: GenerationBody, owner: str, state: A1111State) -> str:
    """Return the model of a body, which the later ones keep if it asks for that."""
    settings = body.override_settings or {}
    model = state.models.check_options_and_find_model(owner, settings)
    if settings and body.override_settings_restore_afterwards is False:
        state.models.set_model_from_options(owner, settings)
    return model


async def _draw(context: GenerationContext) -> GenerationAnswer:
    """Draw the pictures of a body, each by a job, and return the answer with them."""
    task = await run_in_threadpool(_submit, context)
    try:
        jobs = await _wait(task, context.service)
    finally:
        task.is_answered = True
    return await run_in_threadpool(_answer, context, task, jobs)


def _submit(context: GenerationContext) -> Task:
    """Queue a job for each picture; all of them or none. Raises T2IError."""
    body, owner, service = context.body, context.owner, context.service
    number = count_pictures(body)
    if number > service.settings.max_queued:
        raise ArgumentError(
            f"Got n_iter x batch_size = {number}: this server lets up to "
            f"{service.settings.max_queued} wait. Ask for fewer pictures."
        )
    request = GenerateRequest(**context.fields)
    built = resolve_job_request(
        request, service.catalogue, lambda one: service.uploads.get(one, owner).path
    )
    check_pixel_steps_limit(built, number, service.catalogue, service.settings.max_pixels_x_steps)
    jobs: list[Job] = []
    try:
        for seed in choose_seeds(request.seed, number):
            one = request.model_copy(update={"seed": seed, "num": 1})
            jobs.append(service.submit("generate", one, owner))
    except BaseException:
        for job in jobs:
            service.cancel(job.id, owner)
        raise
    task = Task(body.force_task_id or jobs[0].id, owner, [job.id for job in jobs])
    context.state.tasks.add(task)
    return task


async def _wait(task: Task, service: JobService) -> list[Job]:
    """Return the finished jobs of a task, without those that were cancelled.

    Raises the error of the first that failed; the others are cancelled then.
    """
    done = []
    for number, job_id in enumerate(task.job_ids):
        job = await service.wait(job_id, task.owner)
        if job.state == "failed":
            for later in task.job_ids[number + 1 :]:
                service.cancel(later, task.owner)
            raise_if_not_done(job)
        if job.state == "done":
            done.append(job)
    return done


def _answer(context: GenerationContext, task: Task, jobs: list[Job]) -> GenerationAnswer:
    """Return the answer with the pictures of a task's finished jobs."""
    body, service = context.body, context.service
    paths = [
        service.find_result_file(job.id, task.owner, file.name)
        for job in jobs
        if job.result is not None
        for file in job.result.files
        if file.seed is not None
    ]
    details = {
        "force_task_id": task.id,
        "job_id": task.job_ids[0],
        "job_ids": list(task.job_ids),
        "interrupted": task.interrupted,
        "skipped": task.skipped,
    }
    images = []
    if body.send_images is not False:
        for path in paths:
            if isinstance(body, Img2ImgBody) and body.mask:
                texts = read_embedded_texts(path).texts
                data = paste_into_init_image(path, texts, body, service)
            else:
                data = read_bytes(path, PICTURE_KIND)
            images.append(encode_base64(data))
    pictures = isinstance(body, Img2ImgBody) and bool(body.include_init_images)
    return GenerationAnswer(
        images=images,
        parameters=echo_body_as_parameters(body, task.id, pictures=pictures),
        info=build_info_json(paths, task.created, details),
    )
