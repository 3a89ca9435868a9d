"""How a model likes to be sampled: what the t2i.json of its folder says.

Nothing here imports torch, for the command line reads it before it loads anything.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2i.denoiser.loading.address import NOTES
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG, read_bytes

MOST_STEPS = 10_000
"""Of a run; ten times those of the noise schedules that models are trained with."""


class Sampling(BaseModel):
    """None is what the model leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sampler: str | None = None

    def over(self, usual: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call: those that are usual, where the model says no others."""
        said = {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}
        return usual | {name: value for name, value in said.items() if value is not None}


class ModelFile(BaseModel):
    """The layout of a t2i.json; it may say more than is read here."""

    defaults: Sampling = Sampling()


def read_sampling(folder: Path) -> Sampling:
    """What the folder says; one without t2i.json leaves everything open."""
    path = folder / NOTES
    return sampling_of(read_bytes(path, MODEL_CONFIG), path) if path.exists() else Sampling()


def sampling_of(notes: str | bytes | None, path: Path = Path(NOTES)) -> Sampling:
    """Raises ModelError for notes of another layout."""
    if notes is None:
        return Sampling()
    try:
        return ModelFile.model_validate_json(notes).defaults
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            f"Cannot use {path}: {place}: {first['msg']}. "
            'Expected {"defaults": {"steps": 20, "guidance_scale": 4.0, "sampler": "ddim"}}; '
            "mend the file or remove it."
        ) from error
