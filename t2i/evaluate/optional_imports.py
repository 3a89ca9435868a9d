"""The libraries that only an evaluation needs."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from t2i.errors import ArgumentError
from t2i.optional_dependencies import how_to_install

LIBRARIES = ("jinja2", "matplotlib", "torchmetrics")


@contextmanager
def explain_missing_extra() -> Iterator[None]:
    """Raises ArgumentError with the install command where a library is missing."""
    try:
        yield
    except ImportError as error:
        raise ArgumentError(
            f"An evaluation needs {error.name or error}, which is not installed: "
            f"{how_to_install('evaluate')}"
        ) from error


def check_extra_installed() -> None:
    """Raise before the work begins rather than when its result is written."""
    with explain_missing_extra():
        for library in LIBRARIES:
            importlib.import_module(library)
