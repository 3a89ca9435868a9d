"""Errors of a configuration in the terms of the TOML that it was written in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from t2i.errors import suggest_choice

EXPECTED_BY_TYPE = {
    "int": "a whole number, as in 8",
    "float": "a number, as in 0.5",
    "bool": "true or false",
    "string": 'text in quotes, as in "a cup"',
    "path": 'a path in quotes, as in "my-pictures"',
    "tuple": "a list in brackets",
    "model": "a table",
    "dict": "a table",
}
"""First word of a pydantic error type -> what to write in the TOML."""


def iterate_coercion_messages(given: Any, parsed: Any, key: str = "") -> Iterator[str]:
    """Yield an error message for each value that pydantic converted to another type, such as 1
    to true.
    """
    if isinstance(given, Mapping) and isinstance(parsed, Mapping):
        for name in given.keys() & parsed.keys():
            yield from iterate_coercion_messages(
                given[name], parsed[name], f"{key}.{name}".strip(".")
            )
    elif isinstance(given, list) and isinstance(parsed, list | tuple):
        for number, (one, other) in enumerate(zip(given, parsed, strict=False)):
            yield from iterate_coercion_messages(one, other, f"{key}.{number}")
    elif isinstance(parsed, int | float) and (
        isinstance(given, str) or isinstance(given, bool) != isinstance(parsed, bool)
    ):
        expected = EXPECTED_BY_TYPE[type(parsed).__name__]
        yield f"{key}: expected {expected}, got {format_toml_value(given)}."


def format_toml_value(value: Any) -> str:
    """Format a config value as TOML on one line; "" for a table, which needs several."""
    many = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, Mapping | list | tuple | BaseModel) for one in many):
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)


def explain_first_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Return a message for the first pydantic validation error of a training config, naming the key
    as the user typed it.
    """
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if not str(part).startswith("constrained-")]
    # Kinds and methods, which pydantic adds to the location and the TOML does not have.
    if place[:1] in (["target"], ["data"]):
        del place[1:2]
    if place[:2] == ["target", "parts"]:
        del place[3:4]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _known_keys(place, model)
        if place[-1] in known:
            return (
                f"The key {key!r} is not for this kind or method of {'.'.join(place[:-1])!r}: "
                "leave it out, or choose another kind."
            )
        return f"Unknown key {key!r}. {suggest_choice(place[-1], known)}"
    if first["type"] == "missing":
        return f"The key {key!r} is missing; add it."
    message = str(first["msg"]).removeprefix("Value error, ")
    given = format_toml_value(first["input"])
    kind, _, why = first["type"].partition("_")
    if kind in EXPECTED_BY_TYPE and why in ("type", "parsing", "from_float", "attributes_type"):
        return f"{key}: expected {EXPECTED_BY_TYPE[kind]}, got {given or 'a table'}."
    if first["type"] == "union_tag_invalid":
        name, known = first["ctx"]["discriminator"].strip("'"), first["ctx"]["expected_tags"]
        return f"{key}.{name}: expected one of {known}, got {first['ctx']['tag']!r}."
    if not key:
        return message
    return f"{key}: {message} (given: {given})" if given else f"{key}: {message}"


def _known_keys(place: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Return the keys that are known in the table of an unknown one."""
    models: set[type[BaseModel]] = {model}
    for part in place[:-1]:
        if not part.isdigit():
            fields = [table.model_fields.get(part) for table in models]
            known = [field.annotation for field in fields if field is not None]
            models = {
                one
                for annotation in known
                for one in find_pydantic_models_in_annotation(annotation)
            }
    return sorted({key for table in models for key in table.model_fields})


def find_pydantic_models_in_annotation(annotation: Any) -> set[type[BaseModel]]:
    """Return the pydantic models in a type annotation, such as the members of a union or a
    tuple.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {
        model for part in get_args(annotation) for model in find_pydantic_models_in_annotation(part)
    }
