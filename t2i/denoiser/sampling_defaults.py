"""A model's sampling defaults, from the t2i.json of its folder.

Nothing here imports torch: the command line reads them before it loads anything.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from t2i.denoiser.loading.address import NOTES_FILE
from t2i.denoiser.loading.model_notes import parse_model_notes, read_model_notes

MAX_STEPS = 10_000
"""Largest number of steps of a run; ten times the usual length of a noise schedule."""


class SamplingDefaults(BaseModel):
    """Sampling settings that a model recommends; None for those it leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sampler: str | None = None

    def merged_over(self, usual: dict[str, Any]) -> dict[str, Any]:
        """Return the call arguments `usual`, overridden by the model's own settings."""
        own = {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}
        return usual | {name: value for name, value in own.items() if value is not None}


REMEDY = (
    'Expected {"defaults": {"steps": 20, "guidance_scale": 4.0, "sampler": "ddim"}}; mend the file '
    "or remove it."
)


class SamplingNotes(BaseModel):
    """Layout of a t2i.json with sampling defaults; other keys are ignored."""

    defaults: SamplingDefaults = SamplingDefaults()


def read_sampling_defaults(folder: Path) -> SamplingDefaults:
    """Return the sampling defaults of a model folder; all None without a t2i.json."""
    notes = read_model_notes(folder, SamplingNotes, REMEDY)
    return SamplingDefaults() if notes is None else notes.defaults


def parse_sampling_defaults(
    notes: str | bytes | None, path: Path = Path(NOTES_FILE)
) -> SamplingDefaults:
    """Parse the sampling defaults in the text of a t2i.json. Raises ModelError if it is invalid."""
    if notes is None:
        return SamplingDefaults()
    return parse_model_notes(notes, SamplingNotes, REMEDY, path).defaults
