"""The values of edits as JSON holds them, and back. What comes from a file is not trusted."""

import base64
import dataclasses
import io
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from PIL import Image

from t2i.attention.edits.base.edit import LARGEST
from t2i.attention.site import Sites, StepWindow, check_step_window
from t2i.errors import ArgumentError, nearest
from t2i.masks import flatten_mask
from t2i.pictures import UNREADABLE
from t2i.terminal import several

LONGEST_TEXT = 2_000
MOST_VALUES = 256
"""In one list or mapping."""
DEEPEST = 8
"""Lists and mappings in one another."""
LONGEST_PICTURE = 4 * 1024 * 1024
"""Letters of a mask in base64."""
MOST_PIXELS = 4096 * 4096
LONGEST_PATTERN, MOST_REPEATS = 200, 4
"""Of a site's name in data: what Python's search answers at once."""


def plain(value: Any, name: str) -> Any:
    """A value of an edit as JSON holds it; raises ArgumentError for what it cannot hold."""
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, format="PNG", optimize=True)
        return {"png": base64.b64encode(file.getvalue()).decode()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value, name)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentError(
                    f"Cannot write down {name}[{key!r}]: JSON has words for keys. Name it by its "
                    "word."
                )
        return {key: plain(one, f"{name}[{key!r}]") for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one, f"{name}[{number}]") for number, one in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ArgumentError(f"Cannot write down {name}={value!r}: JSON has no {type(value).__name__}.")


def fields_of(value: Any, name: str = "") -> dict[str, Any]:
    """The arguments of a dataclass, each as JSON holds it."""
    start = f"{name}." if name else ""
    return {
        field.name: plain(getattr(value, field.name), f"{start}{field.name}")
        for field in dataclasses.fields(value)
    }


def build(kind: type[Any], data: Mapping[str, object], name: str) -> Any:
    """A dataclass from its arguments; raises ArgumentError for those that do not fit."""
    check_depth(data, name)
    types_of = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in known:
            raise ArgumentError(
                f"{name} has no argument {str(key)[:80]!r}. {nearest(str(key)[:80], known)}"
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
    return kind(**{key: read(value, types_of[key], key) for key, value in data.items()})


def read(value: object, hint: Any, name: str) -> Any:
    """A value from JSON as an argument of this type; raises ArgumentError if it is none."""
    if hint == StepWindow:
        return window(value, name)
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if Sites in arms and isinstance(value, str):
        check_pattern(value, name)
    wrong: list[ArgumentError] = []
    for arm in arms:
        try:
            return read_as(value, arm, name)
        except UnsuitableFile:
            continue
        except ArgumentError as error:  # of the right form, with something wrong inside
            wrong.append(error)
    if wrong:
        raise wrong[0]
    expected = " or ".join(dict.fromkeys(filter(None, map(spoken, arms))))
    raise ArgumentError(f"Got {name}={shown(value)}, expected {expected}.")


class UnsuitableFile(Exception):
    """A value that is not of a type at all."""


def read_as(value: object, hint: Any, name: str) -> Any:
    """The same for a type without alternatives."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (int, float, bool, str, type(None)):
        return scalar(value, hint, name)
    if hint is Image.Image:
        return picture(value, name)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UnsuitableFile
        built = build(hint, value, name)  # type: ignore[arg-type]  # a class, not an instance
        if isinstance(built, Sites):
            check_pattern(built.name, name)
        return built
    if origin is tuple or origin is Sequence:
        one_type = origin is Sequence or inner[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (one_type or len(value) == len(inner)):
            raise UnsuitableFile
        check_count(value, name)
        each = [inner[0]] * len(value) if one_type else inner
        return tuple(
            read(one, arm, f"{name}[{number}]")
            for number, (one, arm) in enumerate(zip(value, each, strict=True))
        )
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UnsuitableFile
        check_count(value, name)
        return {
            scalar(key, str, name): read(one, inner[1], f"{name}[{key!r}]")
            for key, one in value.items()
        }
    if get_origin(hint) is not None and set(inner) and all(isinstance(a, str) for a in inner):
        return choice(value, inner)
    raise UnsuitableFile


def window(value: object, name: str) -> Any:
    """Steps; floats stay floats, they mean shares of the run."""
    pair = tuple(value) if isinstance(value, list) and len(value) == 2 else value
    if not isinstance(pair, tuple | None) or not all(
        isinstance(s, int | float) for s in pair or ()
    ):
        raise ArgumentError(
            f"Got {name}={shown(value)}, expected two numbers: [0.0, 0.8] for a share of the run "
            "or [0, 10] for steps."
        )
    check_step_window(name, pair)
    return pair


def scalar(value: object, hint: Any, name: str) -> Any:
    numbers = (int, float) if hint is float else (hint,)
    if type(value) not in numbers:  # a bool is no number
        raise UnsuitableFile
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise ArgumentError(
            f"Got {name} of {several(len(value), 'letter')}, expected at most {LONGEST_TEXT:,}."
        )
    if isinstance(value, int | float) and not abs(value) <= LARGEST:  # nan neither
        raise ArgumentError(f"Got {name}={shown(value)}, expected a number up to {LARGEST:,}.")
    return value


def choice(value: object, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise UnsuitableFile
    return value


def check_count(values: Sequence[object] | Mapping[Any, object], name: str) -> None:
    if len(values) > MOST_VALUES:
        raise ArgumentError(
            f"Got {name} of {several(len(values), 'value')}, expected at most {MOST_VALUES}."
        )


def check_depth(value: object, name: str, left: int = DEEPEST) -> None:
    if not isinstance(value, Mapping | list | tuple):
        return
    if not left:
        raise ArgumentError(f"Got {name} with lists in lists beyond {DEEPEST} levels.")
    for one in value.values() if isinstance(value, Mapping) else value:
        check_depth(one, name, left - 1)


def check_pattern(pattern: str | None, name: str) -> None:
    """Raise ArgumentError for a site's name that could take Python's search very long."""
    if pattern is None:
        return
    repeats = len(re.findall(r"[*+?{]", pattern))
    if (
        len(pattern) > LONGEST_PATTERN
        or repeats > MOST_REPEATS
        or re.search(r"\)\s*[*+?{]", pattern)
    ):
        raise ArgumentError(
            f"Got {name}={shown(pattern)}: in data a site's name has at most {LONGEST_PATTERN} "
            f"letters, {MOST_REPEATS} repetitions, and none after a bracket. A part of the name "
            "will do, such as 'up_blocks.1'."
        )


def picture(value: object, name: str) -> Image.Image:
    """A mask from {"png": base64}."""
    if not isinstance(value, Mapping):
        raise UnsuitableFile
    text = value.get("png")
    if set(value) != {"png"} or not isinstance(text, str) or len(text) > LONGEST_PICTURE:
        raise ArgumentError(
            f'Got {name}={shown(value)}, expected {{"png": ...}}: a PNG in base64 of at most '
            f"{LONGEST_PICTURE // 1024**2} MiB."
        )
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        with Image.open(file, formats=["PNG"]) as opened:
            if opened.width * opened.height <= MOST_PIXELS:
                return flatten_mask(opened).convert("L")
            found = f"{opened.width} x {opened.height}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        found = "far too many"
    except UNREADABLE as error:
        raise ArgumentError(f"Got {name}, which is no PNG in base64: {error}") from error
    raise ArgumentError(f"Got {name} of {found} pixels, expected at most {MOST_PIXELS:,}.")


def spoken(hint: Any) -> str:
    """What a type wants, in words; "" for what data cannot hold."""
    if hint in SPOKEN:
        return SPOKEN[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) or origin is Mapping:
        return "a mapping of its arguments" if origin is not Mapping else "a mapping"
    if origin is tuple or origin is Sequence:
        return f"a list of {len(inner)}" if origin is tuple and inner[-1] is not ... else "a list"
    return " or ".join(map(repr, inner)) if all(isinstance(one, str) for one in inner) else ""


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


SPOKEN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Image.Image: "a mask",
}
