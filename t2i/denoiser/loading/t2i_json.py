"""Reading of the t2i.json beside a model, validated as the caller's pydantic layout.

Nothing here imports torch: the command line reads notes before it loads a model.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.address import NOTES_FILE
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, read_bytes
from t2i.validation_errors import describe_validation_error

Layout = TypeVar("Layout", bound=BaseModel)


def read_t2i_json(folder: Path, layout: type[Layout], remedy: str) -> Layout | None:
    """Read the t2i.json of a model folder (training facts, sampling defaults) as the pydantic model
    `layout`, or return None for a folder without one.

    Raises ModelError, ending in `remedy`, for a file of another layout.
    """
    path = folder / NOTES_FILE
    if not path.is_file():
        return None
    return parse_t2i_json(read_bytes(path, MODEL_CONFIG_KIND), layout, remedy, path)


def parse_t2i_json(
    notes: str | bytes, layout: type[Layout], remedy: str, path: Path = Path(NOTES_FILE)
) -> Layout:
    """Parse the text of a t2i.json as the pydantic model `layout`. Raises ModelError, ending in
    `remedy`, if it does not fit.
    """
    try:
        return layout.model_validate_json(notes)
    except ValidationError as error:
        raise build_t2i_json_error(path, error, remedy) from error


def build_t2i_json_error(path: Path, error: ValidationError, remedy: str) -> ModelError:
    """Return the ModelError for an invalid t2i.json: it names the file, the first fault and what to
    do.
    """
    return ModelError(f"Cannot use {path}: {describe_validation_error(error)}. {remedy}")
