"""Errors of A1111's routes in its layout: {"error", "detail", "body", "errors"}."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from t2i.errors import T2IError
from t2i.server.compat.validation_faults import describe_faults, find_fault_status
from t2i.server.jobs.job import QueueFullError
from t2i.server.security.errors import find_status


class A1111Route(APIRoute):
    """Route whose errors have A1111's layout."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, which answers errors itself."""
        handle = super().get_route_handler()

        async def handle_and_answer_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                status = find_fault_status(error, 422)
                return build_error_answer("ArgumentError", describe_faults(error), status)
            except HTTPException as error:
                return build_error_answer("RequestError", f"{error.detail}.", error.status_code)
            except T2IError as error:
                answer = build_error_answer(type(error).__name__, str(error), find_status(error))
                if isinstance(error, QueueFullError):
                    answer.headers["retry-after"] = str(error.retry_after_s)
                return answer

        return handle_and_answer_errors


class ErrorAnswer(BaseModel):
    """Answer to a request that cannot be done: the type of the error, and its message twice."""

    error: str
    detail: str
    body: str = ""
    errors: str


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 409, 422, 429, 500, 501, 503, 507)
}
"""Statuses of A1111's routes; 401, 403 and 413 are answered before them."""


def build_error_answer(kind: str, message: str, status: int) -> JSONResponse:
    """Return the answer to an error: `detail` and `errors` are its message."""
    answer = ErrorAnswer(error=kind, detail=message, errors=message)
    return JSONResponse(answer.model_dump(), status_code=status)
