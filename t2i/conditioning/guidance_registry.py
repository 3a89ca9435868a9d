"""Guidance by name: parsed from command-line text, written to JSON and read back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.guidance import ClassifierFree, Conditional, ZeroStar
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.conditioning.projected_guidance import AdaptiveProjected
from t2i.conditioning.proximal_guidance import Proximal
from t2i.conditioning.run_state import Guidance
from t2i.errors import ArgumentError, suggest_choice


def parse_guidance(text: str, scale: float, rescale: float = 0.0) -> Guidance:
    """Parse a guidance from its name and arguments, "apg:eta=0.5,momentum=0"; see GUIDANCES for
    names.

    `start` and `stop` limit any method to an interval of the run; several values are joined by "/":
    "pag:sites=mid/up_blocks.0,stop=0.8". Up to scale 1 methods that need only "uncond" and "cond"
    become Conditional, as in `choose_guidance`.
    """
    name, _, arguments = text.partition(":")
    kind = GUIDANCES.get(name.strip().lower())
    if kind is None or kind is Interval:
        known = [method for method in GUIDANCES if GUIDANCES[method] is not Interval]
        raise ArgumentError(
            f"Unknown guidance {name.strip()!r}. {suggest_choice(name.strip(), known)}"
        )

    types = {
        name: type_ for name, type_ in _fields(kind).items() if name not in ARGUMENTS_FROM_CALL
    }
    given = parse_named_arguments(text, arguments, types | {"start": float, "stop": float})
    interval = {key: given.pop(key) for key in ("start", "stop") if key in given}
    from_call = {"scale": scale, "rescale": rescale}
    guidance = _build(kind, given | {k: v for k, v in from_call.items() if k in _fields(kind)})

    limited = Interval(guidance, **interval) if interval else guidance
    if guidance.possible_branches == ClassifierFree.possible_branches and scale <= 1:
        return Conditional()
    return limited


def guidance_to_dict(guidance: Guidance) -> dict[str, Any]:
    """Return the guidance as JSON data: {"method": "cfg", "scale": 7.5, "rescale": 0.0}."""
    names = {kind: name for name, kind in GUIDANCES.items()}
    if type(guidance) not in names:
        raise ArgumentError(
            f"Cannot serialise {type(guidance).__name__}: a custom guidance needs a name in "
            "t2i.conditioning.guidance_registry.GUIDANCES."
        )
    values = {name: getattr(guidance, name) for name in _fields(type(guidance))}
    return {"method": names[type(guidance)]} | {
        name: guidance_to_dict(value) if name == "guidance" else _plain(value)
        for name, value in values.items()
    }


def guidance_from_dict(data: Mapping[str, Any]) -> Guidance:
    """Build a guidance from the JSON data that `guidance_to_dict` returned."""
    kind, values = _read(data)
    if isinstance(values.get("guidance"), Mapping):
        values["guidance"] = _build(*_read(values["guidance"]))
    return _build(kind, values)


def _read(data: Mapping[str, Any]) -> tuple[type[Guidance], dict[str, Any]]:
    method = str(data.get("method"))
    if method not in GUIDANCES:
        raise ArgumentError(f"Unknown guidance {method!r}. {suggest_choice(method, GUIDANCES)}")
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data.items()
        if name != "method"
    }
    return GUIDANCES[method], values


def _build(kind: type[Guidance], values: Mapping[str, Any]) -> Guidance:
    """An instance, or an ArgumentError for arguments that are missing or unknown."""
    fields = _fields(kind)
    for name in values:
        if name not in fields:
            raise ArgumentError(f"{_name(kind)} has no argument {name!r}. {_choices(name, fields)}")
    required = {
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # the protocol hides it
        if field.default is dataclasses.MISSING
    }
    missing = sorted(required - values.keys())
    if missing:
        raise ArgumentError(f"{_name(kind)} needs {', '.join(missing)}: give a value for each.")
    return kind(**values)


def parse_named_arguments(text: str, arguments: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the arguments of a choice by name, "eta=0.5,sites=mid/up", into values of its fields'
    types.

    text : that the arguments are a part of, for messages
    """
    values: dict[str, Any] = {}
    for argument in filter(None, (part.strip() for part in arguments.split(","))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            raise ArgumentError(f"Got {argument!r} in {text!r}, expected name=value.")
        if key not in types:
            raise ArgumentError(f"Unknown argument {key!r} in {text!r}. {_choices(key, types)}")
        if key in values:
            raise ArgumentError(f"Got {key!r} twice in {text!r}: give it once.")
        read, expected = ARGUMENT_PARSERS.get(types[key], (str, "a word"))
        try:
            values[key] = read(value)
        except ValueError as error:
            raise ArgumentError(f"Got {key}={value!r} in {text!r}, expected {expected}.") from error
    return values


def _fields(kind: type[Guidance]) -> dict[str, Any]:
    """The arguments of a guidance, with their types."""
    types = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # the protocol hides a dataclass
    return {field.name: types[field.name] for field in fields}


def _name(kind: type[Guidance]) -> str:
    return next(name for name, known in GUIDANCES.items() if known is kind)


def _choices(name: str, known: Mapping[str, Any]) -> str:
    return suggest_choice(name, known) if known else "It takes none."


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


ARGUMENT_PARSERS: dict[Any, tuple[Callable[[str], object], str]] = {
    float: (float, "a number such as 0.5"),
    int: (int, "a whole number"),
    int | float: (lambda text: float(text) if "." in text else int(text), "a number: 10 or 0.4"),
    tuple[int, ...]: (lambda text: tuple(map(int, text.split("/"))), "numbers such as 0/3/6"),
    tuple[float, ...]: (lambda text: tuple(map(float, text.split("/"))), "numbers such as 1/0.5"),
    tuple[str, ...]: (lambda text: tuple(text.split("/")), "names such as mid/up_blocks.0"),
}
"""Type of an argument -> its parser, and a description of valid text."""

ARGUMENTS_FROM_CALL = ("scale", "rescale")
"""Arguments given by guidance_scale and guidance_rescale, not in the method's text."""

GUIDANCES: dict[str, type[Guidance]] = {
    "none": Conditional,
    "cfg": ClassifierFree,
    "apg": AdaptiveProjected,
    "cfg-zero": ZeroStar,
    "pag": PerturbedAttention,
    "prox": Proximal,
    "and": Composed,
    "interval": Interval,
}
"""Name in files and on the command line -> guidance class."""
