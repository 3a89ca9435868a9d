"""Faults that FastAPI finds in a request, as one line of a message."""

from typing import Any

from fastapi.exceptions import RequestValidationError

MAX_MESSAGE_LETTERS = 2_000


def format_first_validation_error(error: RequestValidationError) -> str:
    """Return the first validation error of an invalid request as text: "steps: Input should be a
    valid integer.".
    """
    first: Any = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return f"The body is not JSON: {reason}."[:MAX_MESSAGE_LETTERS]
    place = ".".join(map(str, first["loc"][1:])) or str(first["loc"][0])
    reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{place}: {reason}."[:MAX_MESSAGE_LETTERS]


def find_validation_error_status(error: RequestValidationError, usual: int) -> int:
    """Return the HTTP status of the answer to an invalid request: 400 for a body that is no JSON,
    else the API's usual status.
    """
    first: Any = error.errors()[0]
    return 400 if first["type"] == "json_invalid" else usual
