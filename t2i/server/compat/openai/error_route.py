"""Errors of OpenAI's routes in its layout: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from t2i.errors import ModelError, T2IError
from t2i.server.compat.validation_faults import describe_faults
from t2i.server.jobs.job import QueueFullError
from t2i.server.security.errors import find_status


class ErrorDetails(BaseModel):
    """Error: its message, OpenAI's type for it, the field at fault, and the name of its class."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Answer to a request that cannot be done."""

    error: ErrorDetails


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 409, 422, 429, 500, 501, 503, 507)
}
"""Statuses of OpenAI's routes; 401, 403 and 413 are answered before them."""


class UnknownModelError(ModelError):
    """Error for a model that the server does not list."""


class OpenAIRoute(APIRoute):
    """Route whose errors have OpenAI's layout."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, which answers errors itself."""
        handle = super().get_route_handler()

        async def handle_and_answer_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                body = describe_error("ArgumentError", describe_faults(error), 400)
                return JSONResponse(body, status_code=400)
            except HTTPException as error:
                body = describe_error("RequestError", f"{error.detail}.", error.status_code)
                return JSONResponse(body, status_code=error.status_code)
            except T2IError as error:
                return build_error_answer(error)

        return handle_and_answer_errors


def build_error_answer(error: T2IError) -> JSONResponse:
    """Return the answer to an error. A request that cannot be drawn is 400 there, not 422."""
    status = find_openai_status(error)
    headers = {}
    if isinstance(error, QueueFullError):
        headers["retry-after"] = str(error.retry_after_s)
    body = describe_error(type(error).__name__, str(error), status)
    if isinstance(error, UnknownModelError):
        body["error"] |= {"param": "model", "code": "model_not_found"}
    return JSONResponse(body, status_code=status, headers=headers)


def find_openai_status(error: T2IError) -> int:
    """Return the status of the answer to an error."""
    if isinstance(error, UnknownModelError):
        return 404
    status = find_status(error)
    return 400 if status == 422 else status


def describe_error(kind: str, message: str, status: int) -> dict[str, dict[str, str | None]]:
    """Return the JSON data of an error.

    kind : name of its class, sent as `code`
    """
    layout = {429: "rate_limit_error", 404: "not_found_error"}
    usual = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": message,
            "type": layout.get(status, usual),
            "param": None,
            "code": kind,
        }
    }
