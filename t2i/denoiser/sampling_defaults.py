"""A model's sampling defaults, from the t2i.json of its folder.

Nothing here imports torch: the command line reads them before it loads anything.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.loading.t2i_json import parse_t2i_json, read_t2i_json

MAX_STEPS = 10_000
"""Largest number of steps of a run; ten times the usual length of a noise schedule."""


class SamplingDefaults(BaseModel):
    """Sampling settings that a model recommends; None for those it leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sampler: str | None = None

    def override_call_arguments(self, usual: dict[str, Any]) -> dict[str, Any]:
        """Return the fallback call arguments `usual`, with the steps and guidance scale that the
        model recommends in place of theirs.
        """
        own = {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}
        return usual | {name: value for name, value in own.items() if value is not None}


SAMPLING_DEFAULTS_REMEDY = (
    'Expected {"defaults": {"steps": 20, "guidance_scale": 4.0, "sampler": "ddim"}}; mend the file '
    "or remove it."
)


class SamplingDefaultsFile(BaseModel):
    """Format of a model's t2i.json, of which only the sampling defaults are read."""

    defaults: SamplingDefaults = SamplingDefaults()


def read_sampling_defaults(folder: Path) -> SamplingDefaults:
    """Return the sampling defaults of a model folder; all None without a t2i.json."""
    notes = read_t2i_json(folder, SamplingDefaultsFile, SAMPLING_DEFAULTS_REMEDY)
    return SamplingDefaults() if notes is None else notes.defaults


def parse_sampling_defaults(
    notes: str | bytes | None, path: Path = Path(MODEL_NOTES_FILE)
) -> SamplingDefaults:
    """Parse the sampling defaults in the text of a t2i.json. Raises ModelError if it is invalid."""
    if notes is None:
        return SamplingDefaults()
    return parse_t2i_json(notes, SamplingDefaultsFile, SAMPLING_DEFAULTS_REMEDY, path).defaults
