"""Errors of OpenAI's routes in its format: {"error": {"message", "type", "param", "code"}}."""

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from t2i.errors import ModelError, T2IError
from t2i.server.compat.error_route import ErrorFormattingRoute
from t2i.server.security.errors import find_error_http_status


class ErrorDetails(BaseModel):
    """Error in the JSON answer of OpenAI's API: its message, OpenAI's type for it, the field at
    fault, and the name of its class.
    """

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Answer of OpenAI's routes to a request that cannot be done: {"error": {...}}."""

    error: ErrorDetails


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 409, 422, 429, 500, 501, 503, 507)
}
"""Statuses of OpenAI's routes; 401, 403 and 413 are answered before them."""


class UnknownModelError(ModelError):
    """Error of OpenAI's API for a model that the server does not list."""


class OpenAIRoute(ErrorFormattingRoute):
    """FastAPI route class that answers errors in the JSON format of OpenAI's API."""

    @staticmethod
    def build_error_answer(
        kind: str, message: str, status: int, error: T2IError | None = None
    ) -> JSONResponse:
        """Return the answer to an error in the JSON format of OpenAI's API. A request that cannot
        be drawn is 400 there, not 422.
        """
        status = _convert_status(status) if error is None else find_openai_http_status(error)
        body = build_openai_error_data(kind, message, status)
        if isinstance(error, UnknownModelError):
            body["error"] |= {"param": "model", "code": "model_not_found"}
        return JSONResponse(body, status_code=status)


def find_openai_http_status(error: T2IError) -> int:
    """Return the HTTP status of OpenAI's answer to an error."""
    if isinstance(error, UnknownModelError):
        return 404
    return _convert_status(find_error_http_status(error))


def _convert_status(status: int) -> int:
    return 400 if status == 422 else status


def build_openai_error_data(
    kind: str, message: str, status: int
) -> dict[str, dict[str, str | None]]:
    """Return the JSON data of an error in OpenAI's format.

    kind : name of its class, sent as `code`
    """
    type_by_status = {429: "rate_limit_error", 404: "not_found_error"}
    usual = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": message,
            "type": type_by_status.get(status, usual),
            "param": None,
            "code": kind,
        }
    }
