"""Optional libraries of the evaluation, and the error that names how to install them."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from t2i.errors import ArgumentError
from t2i.optional_dependencies import build_install_command

EVALUATE_EXTRA_LIBRARIES = ("jinja2", "matplotlib", "torchmetrics")


@contextmanager
def explaining_missing_extra() -> Iterator[None]:
    """Raise an ArgumentError with the install command in place of an ImportError of the block."""
    try:
        yield
    except ImportError as error:
        raise ArgumentError(
            f"An evaluation needs {error.name or error}, which is not installed: "
            f"{build_install_command('evaluate')}"
        ) from error


def check_extra_installed() -> None:
    """Raise ArgumentError if an optional library of the evaluation is not installed."""
    with explaining_missing_extra():
        for library in EVALUATE_EXTRA_LIBRARIES:
            importlib.import_module(library)
