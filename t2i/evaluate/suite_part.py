"""Protocol of a part of the suite: units that are measured one by one, and their report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.evaluate.report.chapter import Chapter
from t2i.scenes.caption_matcher import CaptionMatcher
from t2i.scenes.recogniser import Recogniser

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
Record = Mapping[str, JsonValue]
"""Record of one unit of work, as JSON data: what was measured."""


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """Model, recogniser and settings that all parts of an evaluation share.

    pipe : the model, in evaluation mode, without progress bars
    objects : the names of the objects the model was trained on
    max_objects : how many of them one training picture shows at most
    steps, guidance_scale : the model's default sampling settings; its sampler is in the pipe
    save_picture : writes a picture into the result's folder and returns its name for a Gallery
    caption_matcher : scores captions, where the recogniser's folder holds one
    control_network : the ControlNet or T2I-Adapter that the part "hints" measures
    """

    pipe: TextToImagePipeline
    recogniser: Recogniser
    objects: tuple[str, ...]
    max_objects: int
    steps: int
    guidance_scale: float
    save_picture: Callable[[str, Image.Image], str]
    caption_matcher: CaptionMatcher | None = None
    control_network: Any = None


class SuitePart(Protocol):
    """Protocol of a part of the benchmark suite, such as "generation" or "editing", which is
    measured unit by unit.
    """

    name: str

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the units of work of a part of the evaluation suite, in order; they
        are equal in every run.
        """

    def measure_unit(self, unit: str) -> Record:
        """Measure the unit of work with this key in a part of the evaluation suite and return its
        record, as JSON data.
        """

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapters of this part from the records of all units, by key."""
