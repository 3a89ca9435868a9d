"""Routes of A1111's API about running tasks: progress, interrupt and skip."""

import time

from fastapi import APIRouter

from t2i.server.api.service_access import Owner, Service
from t2i.server.compat.a1111.answers.error_route import ERROR_RESPONSES, A1111Route
from t2i.server.compat.a1111.answers.response_schemas import Progress, TaskQuestion, TaskState
from t2i.server.compat.a1111.state.client_state import A1111State, State
from t2i.server.compat.a1111.state.tasks import Task, TaskProgress, compute_task_progress
from t2i.server.jobs.job_service import JobService

router = APIRouter(tags=["A1111"], route_class=A1111Route, responses=ERROR_RESPONSES)


@router.get("/sdapi/v1/progress")
def get_progress(
    owner: Owner, service: Service, state: State, skip_current_image: bool = False
) -> Progress:
    """Return how far your task is that runs, or that is next; zeros without one."""
    found = _find_current(owner, service, state)
    if found is None:
        return Progress(progress=0.0, eta_relative=0.0, state=_describe_state(None))
    return Progress(
        progress=found.fraction,
        eta_relative=found.seconds_left,
        state=_describe_state(found),
        current_image=None if skip_current_image else _find_preview(found, service),
        textinfo=None if found.is_running else "Waiting...",
    )


@router.post("/internal/progress")
def get_task_progress(
    body: TaskQuestion, owner: Owner, service: Service, state: State
) -> TaskState:
    """Return how far your task is that has this name."""
    task = None if body.id_task is None else state.tasks.find(owner, body.id_task)
    if task is None:
        return TaskState(active=False, queued=False, completed=False, textinfo="Waiting...")
    found = None if task.is_answered else _measure(task, service)
    if found is None or found.current is None:
        return TaskState(active=False, queued=False, completed=True, progress=1.0)
    event = service.get_preview(found.current.id, owner) if body.live_preview else None
    step = None if event is None else int(event.data["step"])
    is_new = step is not None and step != body.id_live_preview
    return TaskState(
        active=found.is_running,
        queued=not found.is_running,
        completed=False,
        progress=found.fraction,
        eta=found.seconds_left,
        live_preview=f"data:image/png;base64,{event.data['png']}" if event and is_new else None,
        id_live_preview=body.id_live_preview if step is None else step,
        textinfo=None if found.is_running else "Waiting...",
    )


@router.get("/internal/ping")
def ping() -> dict[str, str]:
    """Answer, as A1111's page asks for."""
    return {}


@router.post("/sdapi/v1/interrupt")
def interrupt(owner: Owner, service: Service, state: State) -> dict[str, str]:
    """Stop your task that runs, or is next; its request is answered with the finished pictures."""
    found = _find_current(owner, service, state)
    if found is not None:
        found.task.interrupted = True
        for job in found.jobs:
            service.cancel(job.id, owner)
    return {}


@router.post("/sdapi/v1/skip")
def skip(owner: Owner, service: Service, state: State) -> None:
    """Stop the picture of your task that is being drawn; the next one begins."""
    found = _find_current(owner, service, state)
    if found is not None and found.current is not None and found.current.state == "running":
        found.task.skipped = True
        service.cancel(found.current.id, owner)


def _find_current(owner: str, service: JobService, state: A1111State) -> TaskProgress | None:
    """Return an owner's task that runs, else the one that is next."""
    active = [_measure(task, service) for task in state.tasks.list_active(owner)]
    unfinished = [one for one in active if one.current is not None]
    running = (one for one in unfinished if one.is_running)
    return next(running, None) or next(iter(unfinished), None)


def _measure(task: Task, service: JobService) -> TaskProgress:
    return compute_task_progress(task, lambda job_id: service.get(job_id, task.owner))


def _find_preview(found: TaskProgress, service: JobService) -> str | None:
    if found.current is None:
        return None
    event = service.get_preview(found.current.id, found.task.owner)
    return None if event is None else str(event.data["png"])


def _describe_state(found: TaskProgress | None) -> dict[str, object]:
    """Return `state` of progress, in A1111's names."""
    progress = None if found is None or found.current is None else found.current.progress
    created = 0.0 if found is None else found.task.created
    return {
        "skipped": found is not None and found.task.skipped,
        "interrupted": found is not None and found.task.interrupted,
        "stopping_generation": False,
        "job": "" if found is None else found.task.id,
        "job_count": 0 if found is None else len(found.jobs),
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(created)) if created else "0",
        "job_no": 0 if found is None else found.num_ended_jobs,
        "sampling_step": 0 if progress is None else progress.step,
        "sampling_steps": 0 if progress is None else progress.steps,
    }
