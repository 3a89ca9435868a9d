"""A part of the suite: units of work that are measured one by one, and what they say together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.evaluate.report.chapter import Chapter
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recogniser import Recogniser

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
Record = Mapping[str, JsonValue]
"""What one unit measured, as JSON holds it."""


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What every part works with.

    pipe : the model, in evaluation, its progress bars off
    objects : the names of the objects the model was shown
    most_objects : how many of them it was shown at once
    steps, guidance_scale : how the model likes to be sampled; its sampler is in the pipe
    keep : writes a picture into the result's folder and gives the name for a Gallery
    caption_matcher : how well captions fit, where the judge has learned that
    """

    pipe: TextToImagePipeline
    recogniser: Recogniser
    objects: tuple[str, ...]
    max_objects: int
    steps: int
    guidance_scale: float
    save_picture: Callable[[str, Image.Image], str]
    caption_matcher: CaptionMatcher | None = None


class SuitePart(Protocol):
    """One of generation, inspection, editing."""

    name: str

    def units(self) -> Sequence[str]:
        """The keys of the units, in order; a key stands for the same work in every run."""

    def measure(self, unit: str) -> Record:
        """Do the work of a unit, a few seconds of it."""

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """What the records of the finished units say, by key."""
