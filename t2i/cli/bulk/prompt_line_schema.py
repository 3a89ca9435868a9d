"""Schema of one line of a prompts file: its keys, their types, and which of them go together."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from t2i.cli.request.request import MAX_PICTURES, MAX_SEED, check_pixel_count, parse_size
from t2i.denoiser.sampling_defaults import MAX_STEPS
from t2i.errors import ArgumentError


class PromptLineSchema(BaseModel):
    """Schema of the keys of a prompts file's line; null, or an empty cell, counts as missing."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = None
    negative: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    size: str | Annotated[int, Field(ge=1)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sampler: str | None = None
    num: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None
    name: str | None = None
    retry: int | str | None = None
    lora: str | list[str] | None = None
    embedding: str | list[str] | None = None
    control: str | list[str] | None = None
    reference: str | None = None
    cache: str | list[str] | None = None
    preset: str | None = None
    ip_adapter: str | list[str] | None = None
    image_prompt: str | None = None
    image: str | None = None
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    mask: str | None = None
    upscale: str | float | None = None
    source: str | list[str] | None = None
    invert: str | None = None
    fit: Literal["crop", "pad", "stretch"] | None = None
    full_size: bool | None = None
    weight: str | list[str] | None = None
    blend: str | None = None
    cross_replace: str | float | None = None
    self_replace: str | float | None = None
    align: str | list[str] | None = None
    region: str | list[str] | None = None
    style: float | None = None
    task: Literal["generate", "edit", "inspect", "invert"] | None = None
    words: str | list[str] | None = None
    segment: bool | None = None
    animate: bool | None = None
    for_style: bool | None = None
    budget: float | None = None
    source_folder: str | None = None
    record: str | None = None


PHOTO_KEYS = ("invert", "fit", "full_size", "budget", "record")
"""Keys about a photo."""
EDIT_KEYS = (*PHOTO_KEYS, "weight", "blend", "cross_replace", "self_replace", "align", "style")
"""Keys that need a "source" or a "source_folder", or a "task" that is about a photo."""
INSPECTION_KEYS = ("words", "segment", "animate")
RECORDING_TASK_KEYS = {
    "edit": (*EDIT_KEYS[2:], "region", "source_folder", "prompt", "task", "name"),
    "inspect": (*INSPECTION_KEYS, "source_folder", "task", "name"),
}
"""Task of a line with a "source_folder" -> keys that it may have; a recording has all others."""
PROMPT_LINE_KEYS = tuple(PromptLineSchema.model_fields)
"""All keys of a line, and columns of a csv."""


def parse_size_or_width_and_height(
    size: str | int | None, width: int | None, height: int | None
) -> tuple[int | None, int | None]:
    """Return the width and height of a prompts file's line from its keys "size", or "width" and
    "height"; None where it has none. Raises ArgumentError.
    """
    if size is not None:
        if width is not None or height is not None:
            raise ArgumentError('Got both "size" and "width" or "height": give one of them.')
        width, height = parse_size(str(size), '"size"')
    if (width is None) != (height is None):
        raise ArgumentError('Got one of "width" and "height": give both, or "size".')
    if width is not None and height is not None:
        check_pixel_count(width, height)
    return width, height
