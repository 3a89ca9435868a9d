"""How a model likes to be sampled: what the t2i.json of its folder says.

Nothing here imports torch, for the command line reads it before it loads anything.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from t2i.denoiser.loading.address import NOTES
from t2i.denoiser.loading.model_notes import parse_model_notes, read_model_notes

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


REMEDY = (
    'Expected {"defaults": {"steps": 20, "guidance_scale": 4.0, "sampler": "ddim"}}; mend the file '
    "or remove it."
)


class ModelFile(BaseModel):
    """The layout of a t2i.json; it may say more than is read here."""

    defaults: Sampling = Sampling()


def read_sampling(folder: Path) -> Sampling:
    """What the folder says; one without t2i.json leaves everything open."""
    notes = read_model_notes(folder, ModelFile, REMEDY)
    return Sampling() if notes is None else notes.defaults


def sampling_of(notes: str | bytes | None, path: Path = Path(NOTES)) -> Sampling:
    """Return the defaults in the text of a t2i.json. Raises ModelError for another layout."""
    if notes is None:
        return Sampling()
    return parse_model_notes(notes, ModelFile, REMEDY, path).defaults
