"""What one tool's metadata says, gathered value by value; what cannot be used is kept by name."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i.cli.request.request import Request
from t2i.cli.request.sampler_names import translate_sampler
from t2i.errors import DataError
from t2i.pictures import MAX_PIXELS
from t2i.safe_reading import parse_json
from t2i.terminal import visible

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_STEPS = 10_000
MAX_FOREIGN_SEED = 2**64 - 1
"""Other tools go beyond MAX_SEED."""
MAX_SHOWN_LETTERS = 120
"""Letters of a value that is named as not understood."""
MAX_NAMED_VALUES = 100
"""Values that are named; of the rest only the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSettings:
    """Named as in Request; None is what the picture does not say."""

    num_inference_steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    model: str | None = None
    model_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """How a picture says it was made.

    not_understood : "name: value" of everything it says that has no place in the other fields
    raw : the text it was read from
    request : exactly what was asked of t2i; None where another tool made the picture
    libraries : name and version of those that made a picture of t2i
    pictures : on a sheet of t2i, of the seed and those after it; 1 of what is no sheet
    """

    tool: str
    prompt: str
    negative_prompt: str = ""
    settings: RecordedSettings = RecordedSettings()
    not_understood: tuple[str, ...] = ()
    raw: str = ""
    request: Request | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 1


@dataclass
class MetadataParser:
    """Takes values of any type as found, and keeps those that a picture can have."""

    not_understood: list[str] = field(default_factory=list)
    left_out: int = 0

    def leave(self, name: str, value: object, expected: str = "") -> None:
        if len(self.not_understood) >= MAX_NAMED_VALUES:
            self.left_out += 1
            return
        said = value if isinstance(value, str) else _to_json(value)
        text = visible(f"{name}: {said[:MAX_SHOWN_LETTERS]}"[:MAX_SHOWN_LETTERS])
        text = f"{text}..." if len(said) > MAX_SHOWN_LETTERS else text
        self.not_understood.append(f"{text} (expected {expected})" if expected else text)

    def leave_rest(self, values: Mapping[str, object], used: set[str]) -> None:
        """Name what was not used, bar what says nothing."""
        for name, value in values.items():
            if name not in used and value not in (None, "", [], {}, "None", "[]", False):
                self.leave(name, value)

    def whole(self, name: str, value: object, low: int, high: int) -> int | None:
        if value in (None, ""):
            return None
        number = value
        if isinstance(value, str) and len(value) <= 20:
            digits = value.strip()
            number = int(digits) if digits.isascii() and digits.isdigit() else None
        elif isinstance(value, float) and value.is_integer():
            number = int(value)
        if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
            return number
        self.leave(name, value, f"a whole number from {low} to {high}")
        return None

    def real(self, name: str, value: object) -> float | None:
        if value in (None, ""):
            return None
        try:
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                number = float(value)
                if math.isfinite(number):
                    return number
        except (ValueError, OverflowError):
            pass
        self.leave(name, value, "a finite number")
        return None

    def text(self, name: str, value: object) -> str | None:
        if value in (None, "", "None"):
            return None
        if isinstance(value, str):
            return value
        self.leave(name, value, "text")
        return None

    def prompt(self, name: str, value: object) -> str:
        if value is not None and not isinstance(value, str):
            self.leave(name, value, "text")
        return value if isinstance(value, str) else ""

    def steps(self, value: object) -> int | None:
        return self.whole("steps", value, 1, MAX_STEPS)

    def seed(self, value: object) -> int | None:
        return self.whole("seed", value, 0, MAX_FOREIGN_SEED)

    def size(self, width: object, height: object) -> tuple[int | None, int | None]:
        wide = self.whole("width", width, 1, MAX_PIXELS)
        high = self.whole("height", height, 1, MAX_PIXELS)
        if wide and high and wide * high > MAX_PIXELS:
            self.leave("size", f"{wide}x{high}", f"at most {MAX_PIXELS:,} pixels")
            return None, None
        return (wide, high) if wide and high else (None, None)

    def sampler(self, name: object, spacing: object = None) -> str | None:
        """In our spelling where we have it, else as it stands and named."""
        name = self.text("sampler", name)
        if name is None:
            return None
        ours, rest = translate_sampler(name, self.text("schedule", spacing) or "")
        if ours is None:
            self.leave("sampler", name)
        if rest:
            self.leave("schedule", rest)
        return ours or name

    def story(
        self, tool: str, prompt: str, negative_prompt: str, settings: RecordedSettings, raw: str
    ) -> ImageMetadata:
        rest = [f"and {self.left_out:,} more"] if self.left_out else []
        return ImageMetadata(
            tool=tool,
            prompt=prompt,
            negative_prompt=negative_prompt,
            settings=settings,
            not_understood=(*self.not_understood, *rest),
            raw=raw,
        )


def _to_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


def _parse_json(name: str, text: str) -> Json:
    """JSON of any depth and size of number: read, or refused by name."""
    try:
        value: Json = parse_json(text, lenient=True)
    except ValueError as error:
        raise DataError(f"{name}: not JSON: {visible(str(error))}") from None
    return value


def parse_json_object(name: str, text: str) -> dict[str, Json]:
    value = _parse_json(name, text)
    if not isinstance(value, dict):
        raise DataError(f"{name}: JSON, but not an object")
    return value
