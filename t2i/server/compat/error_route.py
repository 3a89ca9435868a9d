"""Routes that answer their errors themselves, in the format of another program's API."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from t2i.errors import T2IError
from t2i.server.compat.validation_faults import (
    find_validation_error_status,
    format_first_validation_error,
)
from t2i.server.jobs.job import QueueFullError
from t2i.server.security.errors import find_error_http_status


class ErrorFormattingRoute(APIRoute):
    """FastAPI route class that answers errors in the JSON format that a subclass gives them, such
    as A1111's or OpenAI's.
    """

    @staticmethod
    @abstractmethod
    def build_error_answer(
        kind: str, message: str, status: int, error: T2IError | None = None
    ) -> JSONResponse:
        """Return the answer to an error: the name of its class, its message, and the status that
        the own API has for it; `error` itself if the server raised it.
        """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the request handler of a FastAPI route, which answers errors in the format of the
        route's class.
        """
        handle = super().get_route_handler()
        answer = self.build_error_answer

        async def handle_and_answer_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return answer(
                    "ArgumentError",
                    format_first_validation_error(error),
                    find_validation_error_status(error, 422),
                )
            except HTTPException as error:
                return answer("RequestError", f"{error.detail}.", error.status_code)
            except T2IError as error:
                built = answer(
                    type(error).__name__, str(error), find_error_http_status(error), error
                )
                if isinstance(error, QueueFullError):
                    built.headers["retry-after"] = str(error.retry_after_s)
                return built

        return handle_and_answer_errors
