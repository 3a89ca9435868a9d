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
from t2i.server.compat.validation_faults import describe_first_fault, find_fault_status
from t2i.server.jobs.job import QueueFullError
from t2i.server.security.errors import find_status


class ErrorRoute(APIRoute):
    """Route whose errors have the format that a subclass gives them."""

    @staticmethod
    @abstractmethod
    def build_error_answer(
        kind: str, message: str, status: int, error: T2IError | None = None
    ) -> JSONResponse:
        """Return the answer to an error: the name of its class, its message, and the status that
        the own API has for it; `error` itself if the server raised it.
        """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, which answers errors itself."""
        handle = super().get_route_handler()
        answer = self.build_error_answer

        async def handle_and_answer_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return answer(
                    "ArgumentError", describe_first_fault(error), find_fault_status(error, 422)
                )
            except HTTPException as error:
                return answer("RequestError", f"{error.detail}.", error.status_code)
            except T2IError as error:
                built = answer(type(error).__name__, str(error), find_status(error), error)
                if isinstance(error, QueueFullError):
                    built.headers["retry-after"] = str(error.retry_after_s)
                return built

        return handle_and_answer_errors
