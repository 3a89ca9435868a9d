"""The web application of a server: its routes, its errors, and the service behind them."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from t2i import __version__
from t2i.errors import T2IError
from t2i.server.api import documentation, models, pictures, runs, v1
from t2i.server.compat.a1111.routes.routers import router as a1111_router
from t2i.server.compat.openai.routers import router as openai_router
from t2i.server.jobs.job import QueueFullError
from t2i.server.jobs.job_dispatcher import JobDispatcher
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.server_state import ServerState
from t2i.server.page_files import build_page_router
from t2i.server.security.access import AccessMiddleware
from t2i.server.security.body_text import check_body_encodable_as_utf8
from t2i.server.security.errors import build_error_data, find_error_http_status
from t2i.server.security.headers import SecurityHeaderMiddleware
from t2i.server.security.hosts import HostAndOriginMiddleware
from t2i.server.security.limits import BodyLimitMiddleware
from t2i.server.settings import ServerSettings
from t2i.server.worker.worker_pool import WorkerPool

logger = logging.getLogger(__name__)
PAGE_FOLDER = Path(__file__).parent / "page"
MAX_REQUEST_THREADS = 40
"""Requests whose work is done in threads at the same time."""


def create_app(settings: ServerSettings) -> FastAPI:
    """Create the web application; its store and its workers start and end with its lifespan.

    Raises OutputError where another server uses the folder, ModelError for an unknown model.
    """
    state = ServerState(settings)
    pool = WorkerPool(settings, JobDispatcher(state))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_REQUEST_THREADS
        state.start_periodic_cleanup()
        pool.start()
        try:
            yield
        finally:
            state.events.close()
            await anyio.to_thread.run_sync(pool.stop)
            state.close()

    app = FastAPI(
        title="t2i",
        version=__version__,
        summary="Text-to-image conditioning: pictures, edits, inversions and heat maps as jobs.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=build_middleware(settings),
        responses=ERROR_RESPONSES,
        dependencies=[Depends(check_body_encodable_as_utf8)],
    )
    # Not to FastAPI, which warns of it; uvicorn's would be added to paths that have it already.
    app.root_path = settings.root_path
    app.state.server, app.state.service = state, JobService(state)
    app.state.pool, app.state.settings = pool, settings
    app.state.catalogue = state.catalogue
    for router in (v1.router, pictures.router, models.router, runs.router, documentation.router):
        app.include_router(router)
    app.include_router(a1111_router)
    app.include_router(openai_router)
    app.include_router(build_page_router(PAGE_FOLDER))
    add_error_handlers(app)
    return app


def build_middleware(settings: ServerSettings) -> list[Middleware]:
    """Return the middleware of an application, the outermost first."""
    layers = [
        Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies)),
        Middleware(SecurityHeaderMiddleware),
        Middleware(HostAndOriginMiddleware, settings=settings),
        Middleware(
            BodyLimitMiddleware, max_bytes=settings.max_body_bytes, timeout=settings.body_timeout
        ),
    ]
    if settings.allowed_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["*"],
                allow_headers=["*"],
            )
        )
    layers.append(
        Middleware(AccessMiddleware, tokens=settings.tokens, root_path=settings.root_path)
    )
    return layers


def add_error_handlers(app: FastAPI) -> None:
    """Register handlers on a FastAPI application that answer every error of a route as JSON, with
    its message and the right HTTP status.
    """

    @app.exception_handler(T2IError)
    async def answer_known_error(_request: Request, error: T2IError) -> JSONResponse:
        headers = {}
        if isinstance(error, QueueFullError):
            headers["retry-after"] = str(error.retry_after_s)
        return JSONResponse(
            build_error_data(type(error).__name__, str(error)),
            find_error_http_status(error),
            headers,
        )

    @app.exception_handler(RequestValidationError)
    async def answer_validation_error(
        _request: Request, error: RequestValidationError
    ) -> JSONResponse:
        first: Any = error.errors()[0]
        is_json = first["type"] == "json_invalid"
        place = [str(part) for part in first["loc"][1:]] if not is_json else []
        reason = str(first.get("ctx", {}).get("error", first["msg"])) if is_json else first["msg"]
        message = reason.removeprefix("Value error, ").rstrip(".")
        message = f"The body is not JSON: {message}" if is_json else message
        text = f"{'.'.join(place)}: {message}" if place else message
        return JSONResponse(
            build_error_data("ArgumentError", f"{text}."[:2_000]), 400 if is_json else 422
        )

    @app.exception_handler(HTTPException)
    async def answer_http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            build_error_data("RequestError", f"{error.detail}."), error.status_code, error.headers
        )

    @app.exception_handler(Exception)
    async def answer_unknown_error(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse(
            build_error_data("ServerError", "The server has failed; its log says why."), 500
        )


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        400: "The body is not JSON, or has the wrong form",
        401: "A token is needed",
        403: "The host or the origin is refused",
        404: "There is no such job, file or upload",
        413: "The body is too large",
        422: "The request cannot be drawn: the message says why, in the command line's words",
        429: "The queue is full; Retry-After says when to try again",
        503: "The server is about to stop",
        507: "The disk is full",
    }.items()
}
