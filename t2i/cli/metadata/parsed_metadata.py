"""Metadata of an image in one format for all tools, and the checks of its values."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i.cli.request.request import Request
from t2i.denoiser.sampler_names import translate_sampler_name_and_spacing
from t2i.denoiser.sampling_defaults import MAX_STEPS
from t2i.errors import DataError
from t2i.pictures import MAX_PIXELS
from t2i.safe_reading import parse_json
from t2i.terminal import escape_controls

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_FOREIGN_SEED = 2**64 - 1
"""Maximum seed of other tools, above MAX_SEED."""
MAX_SHOWN_LENGTH = 120
"""Maximum letters of a value in `not_understood`."""
MAX_NAMED_VALUES = 100
"""Maximum number of values in `not_understood`; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSettings:
    """Sampling settings read from an image's metadata; None for missing ones."""

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
    """Generation metadata read from an image of t2i or another tool.

    not_understood : "name: value" of everything that has no place in the other fields
    raw : the text it was parsed from
    request : of an image of t2i, complete; None for an image of another tool
    libraries : name and version of those that made an image of t2i
    num_pictures : number of images on a sheet of t2i, of the seed and those after it; else 1
    retry : value of --retry with which the images of a sheet were drawn; None without
    """

    tool: str
    prompt: str
    negative_prompt: str = ""
    settings: MetadataSettings = MetadataSettings()
    not_understood: tuple[str, ...] = ()
    raw: str = ""
    request: Request | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    num_pictures: int = 1
    retry: str | None = None


@dataclass
class MetadataValueParser:
    """Parser of single values in the generation metadata of an image, which collects the invalid
    ones as lines in `not_understood`.
    """

    not_understood: list[str] = field(default_factory=list)
    num_left_out: int = 0

    def record_not_understood(self, name: str, value: object, expected: str = "") -> None:
        """Append to `not_understood` a line for a value of an image's metadata that cannot be used,
        with what was expected.
        """
        if len(self.not_understood) >= MAX_NAMED_VALUES:
            self.num_left_out += 1
            return
        shown = value if isinstance(value, str) else _to_json(value)
        text = escape_controls(f"{name}: {shown[:MAX_SHOWN_LENGTH]}"[:MAX_SHOWN_LENGTH])
        text = f"{text}..." if len(shown) > MAX_SHOWN_LENGTH else text
        self.not_understood.append(f"{text} (expected {expected})" if expected else text)

    def record_unused_keys(self, values: Mapping[str, object], used: set[str]) -> None:
        """Append to `not_understood` a line for each non-empty value of an image's metadata whose
        key is not in `used`.
        """
        for name, value in values.items():
            if name not in used and value not in (None, "", [], {}, "None", "[]", False):
                self.record_not_understood(name, value)

    def parse_int(self, name: str, value: object, low: int, high: int) -> int | None:
        """Parse a whole number from `low` to `high` in an image's metadata; return None for a
        missing value and for any other, which is noted as not understood.
        """
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
        self.record_not_understood(name, value, f"a whole number from {low} to {high}")
        return None

    def parse_float(self, name: str, value: object) -> float | None:
        """Parse a finite number in an image's metadata; return None for anything else, which is
        noted as not understood.
        """
        if value in (None, ""):
            return None
        try:
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                number = float(value)
                if math.isfinite(number):
                    return number
        except (ValueError, OverflowError):
            pass
        self.record_not_understood(name, value, "a finite number")
        return None

    def parse_string(self, name: str, value: object) -> str | None:
        """Parse a string in an image's metadata; return None for an empty one and for another type,
        which is noted as not understood.
        """
        if value in (None, "", "None"):
            return None
        if isinstance(value, str):
            return value
        self.record_not_understood(name, value, "text")
        return None

    def parse_string_or_empty(self, name: str, value: object) -> str:
        """Parse a prompt in an image's metadata; return "" for a missing one and for another type,
        which is noted as not understood.
        """
        if value is not None and not isinstance(value, str):
            self.record_not_understood(name, value, "text")
        return value if isinstance(value, str) else ""

    def parse_steps(self, value: object) -> int | None:
        """Parse the number of sampling steps in an image's metadata; return None for anything else,
        which is noted as not understood.
        """
        return self.parse_int("steps", value, 1, MAX_STEPS)

    def parse_seed(self, value: object) -> int | None:
        """Parse the seed in an image's metadata, also one above t2i's maximum; return None for
        anything else, which is noted as not understood.
        """
        return self.parse_int("seed", value, 0, MAX_FOREIGN_SEED)

    def parse_width_and_height(
        self, width: object, height: object
    ) -> tuple[int | None, int | None]:
        """Parse the width and height in an image's metadata; return two None for an impossible
        size, which is noted as not understood.
        """
        wide = self.parse_int("width", width, 1, MAX_PIXELS)
        high = self.parse_int("height", height, 1, MAX_PIXELS)
        if wide and high and wide * high > MAX_PIXELS:
            self.record_not_understood("size", f"{wide}x{high}", f"at most {MAX_PIXELS:,} pixels")
            return None, None
        return (wide, high) if wide and high else (None, None)

    def parse_sampler(self, name: object, spacing: object = None) -> str | None:
        """Parse the name of a sampler in an image's metadata into t2i's spelling; an unknown name
        is returned as it is and noted as not understood.
        """
        name = self.parse_string("sampler", name)
        if name is None:
            return None
        ours, rest = translate_sampler_name_and_spacing(
            name, self.parse_string("schedule", spacing) or ""
        )
        if ours is None:
            self.record_not_understood("sampler", name)
        if rest:
            self.record_not_understood("schedule", rest)
        return ours or name

    def build_metadata(
        self, tool: str, prompt: str, negative_prompt: str, settings: MetadataSettings, raw: str
    ) -> ImageMetadata:
        """Build the image metadata, together with the values that were not understood."""
        rest = [f"and {self.num_left_out:,} more"] if self.num_left_out else []
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
    """Parse JSON of any depth and size of number. Raises DataError, naming `name`."""
    try:
        value: Json = parse_json(text, lenient=True)
    except ValueError as error:
        raise DataError(f"{name}: not JSON: {escape_controls(str(error))}") from None
    return value


def parse_json_object(name: str, text: str) -> dict[str, Json]:
    """Parse the JSON object of a metadata text. Raises DataError for anything else."""
    value = _parse_json(name, text)
    if not isinstance(value, dict):
        raise DataError(f"{name}: JSON, but not an object")
    return value
