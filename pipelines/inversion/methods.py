"""Inversion methods by name, with their arguments as text: "edit-friendly:skip=0.25"."""

import dataclasses
from typing import Any, get_type_hints

from pipelines.inversion.bdia import BdiaInversion
from pipelines.inversion.ddim import DdimInversion, DirectInversion, NegativePromptInversion
from pipelines.inversion.edit_friendly import EditFriendlyInversion, FlowEdit, TurboEdit
from pipelines.inversion.inversion_run import InversionMethod
from pipelines.inversion.null_text import NullTextInversion
from t2i.errors import ArgumentError, suggest_choice

AUTO_METHOD = "auto"
"""Name that stands for the method that suits the model and the edits."""


def parse_method(text: str) -> InversionMethod:
    """Parse the text of an inversion method, its name and arguments, such as "ddim:iterations=2";
    return the method.

    Raises ArgumentError for an unknown name or argument, and for a value out of range.
    """
    name, _, arguments = text.partition(":")
    name = name.strip().lower().replace("_", "-")
    if name == AUTO_METHOD:
        raise ArgumentError(
            f"Got {text!r:.80}: {AUTO_METHOD} chooses a method with its own arguments, and takes "
            "none. Name the method that they are of, as in edit-friendly:skip=0.2."
        )
    if name not in INVERSION_METHODS:
        known_names = (AUTO_METHOD, *INVERSION_METHODS)
        raise ArgumentError(
            f"Unknown inversion method {name!r:.80}. {suggest_choice(name, known_names)}"
        )
    kind: Any = INVERSION_METHODS[name]
    types = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    values: dict[str, object] = {}
    for argument in filter(None, (part.strip() for part in arguments.split(","))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            raise ArgumentError(f"Got {argument!r:.80} in {text!r:.80}, expected name=value.")
        if key not in known:
            raise ArgumentError(f"{name} has no argument {key!r:.80}. {suggest_choice(key, known)}")
        if key in values:
            raise ArgumentError(f"Got {key!r} twice in {text!r:.80}: give it once.")
        values[key] = parse_method_argument_value(name, key, value, types[key])
    method: InversionMethod = kind(**values)
    return method


def parse_method_argument_value(method: str, key: str, value: str, kind: Any) -> object:
    """Parse the text of an inversion method's argument to its type, an int, float or str; raise
    ArgumentError if that fails.
    """
    try:
        if kind is int:
            return int(value)
        if kind is float:
            return float(value)
        if kind is str:
            return value
        return value if value.isalpha() else float(value)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise ArgumentError(
            f"Got {key}={value!r:.80} for {method}, expected {expected}."
        ) from error


def format_method(method: InversionMethod) -> str:
    """Return an inversion method as the text that `parse_method` reads, with every argument."""
    name = next((name for name, kind in INVERSION_METHODS.items() if type(method) is kind), None)
    if name is None:
        raise ArgumentError(
            f"Got {type(method).__name__} as inversion method, expected one of "
            f"{', '.join(INVERSION_METHODS)}: a method of your own is named in "
            "pipelines.inversion.methods.INVERSION_METHODS."
        )
    fields = dataclasses.fields(method)  # type: ignore[arg-type]  # the protocol hides it
    return f"{name}:" + ",".join(f"{one.name}={getattr(method, one.name)}" for one in fields)


INVERSION_METHODS: dict[str, type[InversionMethod]] = {
    "ddim": DdimInversion,
    "direct": DirectInversion,
    "negative-prompt": NegativePromptInversion,
    "null-text": NullTextInversion,
    "edit-friendly": EditFriendlyInversion,
    "turbo": TurboEdit,
    "difference": FlowEdit,
    "bdia": BdiaInversion,
}
"""Name on the command line and in files -> method."""
