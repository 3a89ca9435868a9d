"""Errors of every route as JSON: the type, the words of the command line, and the status."""

import json
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from t2i.errors import DataError, GenerationError, ModelError, OutputError, T2IError
from t2i.server.jobs.job import (
    JobCancelledError,
    JobNotFoundError,
    QueueFullError,
    ServerStoppingError,
    StorageFullError,
)

STATUS_BY_ERROR_CLASS: dict[type[T2IError], int] = {
    JobNotFoundError: 404,
    QueueFullError: 429,
    StorageFullError: 507,
    ServerStoppingError: 503,
    JobCancelledError: 409,
    ModelError: 422,
    DataError: 422,
    GenerationError: 500,
    OutputError: 500,
}
"""Class of an error -> status of its answer; of others 422, for the request is at fault."""


def find_error_http_status(error: T2IError) -> int:
    """Return the HTTP status of the answer to an error."""
    return next(
        (
            STATUS_BY_ERROR_CLASS[kind]
            for kind in type(error).__mro__
            if kind in STATUS_BY_ERROR_CLASS
        ),
        422,
    )


def build_error_data(kind: str, message: str) -> dict[str, dict[str, str]]:
    """Return the JSON data of an error: its class and message."""
    return {"error": {"type": kind, "message": message}}


async def send_error(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    kind: str,
    message: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send the JSON answer to an error from an ASGI middleware, before the request has reached a
    route.
    """
    body = json.dumps(build_error_data(kind, message)).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    fields |= headers or {}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
