"""Faults that pydantic finds in a document, as one line of a message."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def describe_first_validation_error(error: "ValidationError", whole: str = "the file") -> str:
    """Return the first fault of a pydantic ValidationError as one line: "defaults.steps: Input
    should be a valid integer".

    whole : name of the document, for a fault that is in no key of it
    """
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or whole
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{key}: {reason}"
