"""Routes of A1111's API that clients ask when they start: options, models, samplers, lists."""

import logging
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import psutil  # type: ignore[import-untyped]  # has no types
from fastapi import APIRouter, Body

from t2i.errors import T2IError
from t2i.server.api.service_access import Owner, Service
from t2i.server.compat.a1111.answers import response_schemas as answers
from t2i.server.compat.a1111.answers.error_route import ERROR_RESPONSES, A1111Route
from t2i.server.compat.a1111.request.job_fields import ONLY_UPSCALER
from t2i.server.compat.a1111.request.sampler_choice import list_sampler_items, list_scheduler_items
from t2i.server.compat.a1111.state.client_state import State

logger = logging.getLogger(__name__)
router = APIRouter(
    prefix="/sdapi/v1", tags=["A1111"], route_class=A1111Route, responses=ERROR_RESPONSES
)


@router.get("/options")
def get_options(owner: Owner, state: State) -> dict[str, Any]:
    """Return your options: the model of your requests, and what cannot be changed."""
    return state.models.read_options(owner)


@router.post("/options")
def set_options(
    owner: Owner,
    state: State,
    values: Annotated[dict[str, Any], Body(examples=[{"sd_model_checkpoint": "embedded"}])],
) -> None:
    """Change the model of your later requests, until the server ends."""
    state.models.set_model_from_options(owner, values)


@router.get("/cmd-flags")
def get_flags(service: Service) -> dict[str, Any]:
    """Return how the server was started."""
    settings = service.settings
    return {
        "api": True,
        "nowebui": False,
        "listen": not settings.is_loopback,
        "port": settings.port,
        "subpath": settings.root_path or None,
    }


@router.get("/sd-models")
def get_models(service: Service) -> list[answers.Model]:
    """Return the models that requests may name."""
    return [
        answers.Model(title=name, model_name=name, filename=name)
        for name in service.catalogue.models
    ]


@router.get("/samplers")
def get_samplers() -> list[answers.Sampler]:
    """Return A1111's samplers: those that a request's sampler_name may be, with their aliases and
    options.
    """
    return [answers.Sampler.model_validate(item) for item in list_sampler_items()]


@router.get("/schedulers")
def get_schedulers() -> list[answers.Scheduler]:
    """Return the spacings of the noise levels that scheduler may be."""
    return [answers.Scheduler.model_validate(item) for item in list_scheduler_items()]


@router.get("/upscalers")
def get_upscalers() -> list[answers.Upscaler]:
    """Return the upscalers that hr_upscaler may be."""
    return [answers.Upscaler(name=ONLY_UPSCALER)]


@router.get("/loras")
def get_loras(service: Service) -> list[answers.Lora]:
    """Return the LoRAs that a prompt may name, as <lora:NAME:0.8>."""
    return [
        answers.Lora(name=name, alias=name, path=f"{name}.safetensors")
        for name in service.catalogue.loras
    ]


@router.get("/embeddings")
def get_embeddings(service: Service) -> answers.Embeddings:
    """Return the learned words that act where their names stand in a prompt."""
    loaded = {}
    for name, path in service.catalogue.embeddings.items():
        try:
            loaded[name.rpartition("/")[2]] = _read_embedding(path)
        except T2IError as error:
            logger.warning("The learned word %s is not listed: %s", name, error)
    return answers.Embeddings(loaded=loaded, skipped={})


@cache
def _read_embedding(path: Path) -> answers.Embedding:
    from t2i.adapters.textual_inversion import read_learned_word  # imports torch

    vectors = next(iter(read_learned_word(path).vectors.values()))
    return answers.Embedding(vectors=vectors.shape[0], shape=vectors.shape[1])


@router.get("/memory")
def get_memory() -> answers.Memory:
    """Return the memory of the machine and of this process; the models have their own process."""
    memory = psutil.virtual_memory()
    used = psutil.Process().memory_info().rss
    return answers.Memory(
        ram={"free": memory.available, "used": used, "total": memory.total},
        cuda={"error": "models run in another process, whose memory is not measured"},
    )


@router.get("/scripts")
def get_scripts() -> answers.Scripts:
    """Return the scripts: none."""
    return answers.Scripts()


def _add_empty_lists() -> None:
    """Add the routes of lists of things that t2i does not have."""

    def get_nothing() -> list[dict[str, Any]]:
        """Return an empty list, for there is nothing of the kind here."""
        return []

    names = "sd-vae hypernetworks face-restorers realesrgan-models prompt-styles extensions"
    for name in (*names.split(), "script-info", "latent-upscale-modes", "sd-modules"):
        router.add_api_route(f"/{name}", get_nothing, methods=["GET"], name=f"get_{name}")


def _add_refreshes() -> None:
    """Add the routes that ask for new lists, which are made once, when the server starts."""

    def refresh() -> None:
        """Do nothing: the lists are those of the start of the server."""

    for name in ("checkpoints", "vae", "loras", "embeddings"):
        router.add_api_route(f"/refresh-{name}", refresh, methods=["POST"], name=f"refresh_{name}")


_add_empty_lists()
_add_refreshes()
