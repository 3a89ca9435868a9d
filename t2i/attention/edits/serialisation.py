"""Conversion of edit dataclasses to JSON data and back, with untrusted data checked."""

import base64
import dataclasses
import io
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from PIL import Image

from t2i.attention.edits.base.edit import MAX_ABSOLUTE_VALUE, OMITTED_IF_EMPTY
from t2i.attention.site import Sites, StepWindow, check_step_window
from t2i.errors import ArgumentError, suggest_choice
from t2i.masks import remove_mask_transparency
from t2i.pictures import DECODE_ERRORS
from t2i.terminal import plural

MAX_TEXT_LENGTH = 2_000
MAX_VALUES = 256
"""Most values of one list or mapping."""
MAX_DEPTH = 8
"""Deepest nesting of lists and mappings."""
MAX_PNG_LENGTH = 4 * 1024 * 1024
"""Longest mask, in base64 characters."""
MAX_PIXELS = 4096 * 4096
MAX_PATTERN_LENGTH, MAX_REPETITIONS = 200, 4
"""Limits of a site pattern in data, which keep the search by Python's `re` fast."""


def to_json_value(value: Any, name: str) -> Any:
    """Return a field value of an edit as JSON data. Raises ArgumentError for a type that JSON
    cannot hold.
    """
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, format="PNG", optimize=True)
        return {"png": base64.b64encode(file.getvalue()).decode()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_to_dict(value, name)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentError(
                    f"Cannot serialise {name}[{key!r}]: keys in JSON are texts. Use the "
                    "word as its key."
                )
        return {key: to_json_value(one, f"{name}[{key!r}]") for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [to_json_value(one, f"{name}[{number}]") for number, one in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ArgumentError(f"Cannot serialise {name}={value!r}: JSON has no {type(value).__name__}.")


def fields_to_dict(value: Any, name: str = "") -> dict[str, Any]:
    """Return the fields of an edit's dataclass as a dict of JSON-compatible values, by field
    name.
    """
    start = f"{name}." if name else ""
    return {
        field.name: to_json_value(getattr(value, field.name), f"{start}{field.name}")
        for field in dataclasses.fields(value)
        if getattr(value, field.name) or not field.metadata.get(OMITTED_IF_EMPTY)
    }


def build_dataclass(kind: type[Any], data: Mapping[str, object], name: str) -> Any:
    """Build a dataclass instance from JSON data. Raises ArgumentError for unknown, missing or
    invalid fields.
    """
    check_nesting_depth(data, name)
    types_of = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in known:
            raise ArgumentError(
                f"{name} has no argument {str(key)[:80]!r}. {suggest_choice(str(key)[:80], known)}"
            )
    missing = [
        key
        for key, field in known.items()
        if key not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ArgumentError(f"{name} needs {', '.join(missing)}: give a value for each.")
    return kind(**{key: parse_value(value, types_of[key], key) for key, value in data.items()})


def parse_value(value: object, hint: Any, name: str) -> Any:
    """Convert a JSON value to the type that a dataclass field is annotated with. Raises
    ArgumentError if it does not fit.
    """
    if hint == StepWindow:
        return parse_step_window(value, name)
    alternatives = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if Sites in alternatives and isinstance(value, str):
        check_regex_cost(value, name)
    errors: list[ArgumentError] = []
    for alternative in alternatives:
        try:
            return _read_as_type(value, alternative, name)
        except TypeMismatchError:
            continue
        except ArgumentError as error:  # of the right form, with something wrong inside
            errors.append(error)
    if errors:
        raise errors[0]
    expected = " or ".join(dict.fromkeys(filter(None, map(describe_type, alternatives))))
    raise ArgumentError(f"Got {name}={short_repr(value)}, expected {expected}.")


class TypeMismatchError(Exception):
    """Raised while an edit is built from JSON, for a value that is not of the expected type."""


def _read_as_type(value: object, hint: Any, name: str) -> Any:
    """Return a JSON value as an argument of a type without alternatives; raise
    TypeMismatchError.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (int, float, bool, str, type(None)):
        return parse_scalar(value, hint, name)
    if hint is Image.Image:
        return decode_mask_image(value, name)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise TypeMismatchError
        built = build_dataclass(hint, value, name)  # type: ignore[arg-type]  # a class, not an instance
        if isinstance(built, Sites):
            check_regex_cost(built.name, name)
        return built
    if origin is tuple or origin is Sequence:
        one_type = origin is Sequence or inner[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (one_type or len(value) == len(inner)):
            raise TypeMismatchError
        check_value_count(value, name)
        each = [inner[0]] * len(value) if one_type else inner
        return tuple(
            parse_value(one, alternative, f"{name}[{number}]")
            for number, (one, alternative) in enumerate(zip(value, each, strict=True))
        )
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise TypeMismatchError
        check_value_count(value, name)
        return {
            parse_scalar(key, str, name): parse_value(one, inner[1], f"{name}[{key!r}]")
            for key, one in value.items()
        }
    if get_origin(hint) is not None and set(inner) and all(isinstance(a, str) for a in inner):
        return parse_choice(value, inner)
    raise TypeMismatchError


def parse_step_window(value: object, name: str) -> Any:
    """Return a step window from a JSON list of two numbers: floats, which are fractions of the run,
    stay floats, and integers stay step numbers.
    """
    pair = tuple(value) if isinstance(value, list) and len(value) == 2 else value
    if not isinstance(pair, tuple | None) or not all(
        isinstance(s, int | float) for s in pair or ()
    ):
        raise ArgumentError(
            f"Got {name}={short_repr(value)}, expected two numbers: [0.0, 0.8] for a share of the "
            "run or [0, 10] for steps."
        )
    check_step_window(name, pair)
    return pair


def parse_scalar(value: object, hint: Any, name: str) -> Any:
    """Return a JSON number, boolean, string or null if it is of the expected type. Raises
    TypeMismatchError for another type, ArgumentError for a value that is too large or too long.
    """
    numbers = (int, float) if hint is float else (hint,)
    if type(value) not in numbers:  # a bool is no number
        raise TypeMismatchError
    if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
        raise ArgumentError(
            f"Got {name} of {plural(len(value), 'letter')}, expected at most {MAX_TEXT_LENGTH:,}."
        )
    if isinstance(value, int | float) and not abs(value) <= MAX_ABSOLUTE_VALUE:  # nan neither
        raise ArgumentError(
            f"Got {name}={short_repr(value)}, expected a number up to {MAX_ABSOLUTE_VALUE:,}."
        )
    return value


def parse_choice(value: object, known: tuple[str, ...]) -> str:
    """Return a JSON value of an edit's field if it is one of the allowed strings. Raises
    TypeMismatchError otherwise.
    """
    if not isinstance(value, str) or value not in known:
        raise TypeMismatchError
    return value


def check_value_count(values: Sequence[object] | Mapping[Any, object], name: str) -> None:
    """Raise ArgumentError for a list or mapping in an edit's JSON data that has more than
    MAX_VALUES values.
    """
    if len(values) > MAX_VALUES:
        raise ArgumentError(
            f"Got {name} of {plural(len(values), 'value')}, expected at most {MAX_VALUES}."
        )


def check_nesting_depth(value: object, name: str, left: int = MAX_DEPTH) -> None:
    """Raise ArgumentError for lists and mappings in an edit's JSON data that are nested beyond
    MAX_DEPTH levels.
    """
    if not isinstance(value, Mapping | list | tuple):
        return
    if not left:
        raise ArgumentError(f"Got {name} with lists in lists beyond {MAX_DEPTH} levels.")
    for one in value.values() if isinstance(value, Mapping) else value:
        check_nesting_depth(one, name, left - 1)


def check_regex_cost(pattern: str | None, name: str) -> None:
    """Raise ArgumentError for a regular expression whose matching could take exponential time."""
    if pattern is None:
        return
    repeats = len(re.findall(r"[*+?{]", pattern))
    if (
        len(pattern) > MAX_PATTERN_LENGTH
        or repeats > MAX_REPETITIONS
        or re.search(r"\)\s*[*+?{]", pattern)
    ):
        raise ArgumentError(
            f"Got {name}={short_repr(pattern)}: in data a site's name has at most "
            f"{MAX_PATTERN_LENGTH} letters, {MAX_REPETITIONS} repetitions, and none after a "
            "bracket. A part of the name will do, such as 'up_blocks.1'."
        )


def decode_mask_image(value: object, name: str) -> Image.Image:
    """Decode a mask image from JSON data {"png": base64}. Raises ArgumentError for other mappings,
    TypeMismatchError for what is no mapping.
    """
    if not isinstance(value, Mapping):
        raise TypeMismatchError
    text = value.get("png")
    if set(value) != {"png"} or not isinstance(text, str) or len(text) > MAX_PNG_LENGTH:
        raise ArgumentError(
            f'Got {name}={short_repr(value)}, expected {{"png": ...}}: a PNG in base64 of at most '
            f"{MAX_PNG_LENGTH // 1024**2} MiB."
        )
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        with Image.open(file, formats=["PNG"]) as opened:
            if opened.width * opened.height <= MAX_PIXELS:
                return remove_mask_transparency(opened).convert("L")
            found = f"{opened.width} x {opened.height}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        found = "far too many"
    except DECODE_ERRORS as error:
        raise ArgumentError(f"Got {name}, which is no PNG in base64: {error}") from error
    raise ArgumentError(f"Got {name} of {found} pixels, expected at most {MAX_PIXELS:,}.")


def describe_type(hint: Any) -> str:
    """Return a description of a dataclass field's type for error messages; "" for a type that JSON
    data cannot hold.
    """
    if hint in TYPE_DESCRIPTIONS:
        return TYPE_DESCRIPTIONS[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) or origin is Mapping:
        return "a mapping of its arguments" if origin is not Mapping else "a mapping"
    if origin is tuple or origin is Sequence:
        return f"a list of {len(inner)}" if origin is tuple and inner[-1] is not ... else "a list"
    return " or ".join(map(repr, inner)) if all(isinstance(one, str) for one in inner) else ""


def short_repr(value: object) -> str:
    """Return the repr of a value, shortened to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


TYPE_DESCRIPTIONS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Image.Image: "a mask",
}
