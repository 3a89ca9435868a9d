"""Reading of the t2i.json beside a model, validated as the caller's pydantic model.

Nothing here imports torch: the command line reads notes before it loads a model.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, read_bytes
from t2i.validation_errors import describe_first_validation_error

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_t2i_json(folder: Path, pydantic_model: type[ModelT], remedy: str) -> ModelT | None:
    """Read the t2i.json of a model folder (training facts, sampling defaults) into an instance of
    `pydantic_model`, or return None for a folder without one.

    Raises ModelError, ending in `remedy`, for a file that does not fit the model.
    """
    path = folder / MODEL_NOTES_FILE
    if not path.is_file():
        return None
    return parse_t2i_json(read_bytes(path, MODEL_CONFIG_KIND), pydantic_model, remedy, path)


def parse_t2i_json(
    notes: str | bytes,
    pydantic_model: type[ModelT],
    remedy: str,
    path: Path = Path(MODEL_NOTES_FILE),
) -> ModelT:
    """Parse the text of a t2i.json into an instance of `pydantic_model`.

    Raises ModelError, ending in `remedy`, if the text does not fit the model.
    """
    try:
        return pydantic_model.model_validate_json(notes)
    except ValidationError as error:
        raise build_t2i_json_error(path, error, remedy) from error


def build_t2i_json_error(path: Path, error: ValidationError, remedy: str) -> ModelError:
    """Return the ModelError for an invalid t2i.json: it names the file, the first fault and what to
    do.
    """
    return ModelError(f"Cannot use {path}: {describe_first_validation_error(error)}. {remedy}")
