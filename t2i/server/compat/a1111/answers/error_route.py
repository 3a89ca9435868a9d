"""Errors of A1111's routes in its format: {"error", "detail", "body", "errors"}."""

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from t2i.errors import T2IError
from t2i.server.compat.error_route import ErrorFormattingRoute


class ErrorAnswer(BaseModel):
    """Answer of A1111's routes to a request that cannot be done: the type of the error, and its
    message twice.
    """

    error: str
    detail: str
    body: str = ""
    errors: str


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 409, 422, 429, 500, 501, 503, 507)
}
"""Statuses of A1111's routes; 401, 403 and 413 are answered before them."""


class A1111Route(ErrorFormattingRoute):
    """FastAPI route class that answers errors in the JSON format of A1111's API."""

    @staticmethod
    def build_error_answer(
        kind: str, message: str, status: int, error: T2IError | None = None
    ) -> JSONResponse:
        """Return the answer to an error in the JSON format of A1111's API, where `detail` and
        `errors` are the error's message.
        """
        answer = ErrorAnswer(error=kind, detail=message, errors=message)
        return JSONResponse(answer.model_dump(), status_code=status)
