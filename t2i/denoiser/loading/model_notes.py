"""Reading of the t2i.json beside a model, validated as the caller's pydantic layout.

Nothing here imports torch: the command line reads notes before it loads a model.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.address import NOTES_FILE
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG, read_bytes
from t2i.validation_errors import describe_validation_error

Layout = TypeVar("Layout", bound=BaseModel)


def read_model_notes(folder: Path, layout: type[Layout], remedy: str) -> Layout | None:
    """Read the t2i.json of a model folder, or return None for a folder without one.

    Raises ModelError, ending in `remedy`, for notes of another layout.
    """
    path = folder / NOTES_FILE
    if not path.is_file():
        return None
    return parse_model_notes(read_bytes(path, MODEL_CONFIG), layout, remedy, path)


def parse_model_notes(
    notes: str | bytes, layout: type[Layout], remedy: str, path: Path = Path(NOTES_FILE)
) -> Layout:
    """Parse the text of a t2i.json. Raises ModelError, ending in `remedy`, if it does not fit
    `layout`.
    """
    try:
        return layout.model_validate_json(notes)
    except ValidationError as error:
        raise build_notes_error(path, error, remedy) from error


def build_notes_error(path: Path, error: ValidationError, remedy: str) -> ModelError:
    """Return the error that names the file, its first fault and what to do."""
    return ModelError(f"Cannot use {path}: {describe_validation_error(error)}. {remedy}")
