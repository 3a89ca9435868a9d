"""Caches by name: parsed from command-line text, written to JSON and read back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from t2i.attention.edits.serialisation import build_dataclass, fields_to_dict, short_repr
from t2i.conditioning.guidance_registry import parse_named_arguments
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.caches.deep_blocks import DeepBlocks
from t2i.denoiser.caches.gated_cross_attention import GatedCrossAttention
from t2i.errors import ArgumentError, suggest_choice


def parse_cache(text: str) -> Cache:
    """Parse a cache from its name and arguments, "deep:every=3,branch=1"; see CACHES for names.

    Several values are joined by "/": "deep:full=0/3/6". Raises ArgumentError.
    """
    name, _, arguments = text.partition(":")
    kind = _find_class(name.strip().lower())
    types = {key: get_type_hints(kind)[key] for key in _field_defaults(kind)}
    cache: Cache = kind(**parse_named_arguments(text, arguments, types))
    return cache


def format_cache(cache: Cache) -> str:
    """Return a cache as text that `parse_cache` reads: its first argument, and those that are not
    the default.
    """
    defaults = _field_defaults(type(cache))
    values = {name: getattr(cache, name) for name in defaults}
    shown = [
        f"{name}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}"
        for number, (name, value) in enumerate(values.items())
        if number == 0 or value != defaults[name]
    ]
    return f"{cache.name}:{','.join(shown)}"


def caches_to_list(caches: Sequence[Cache]) -> list[dict[str, Any]]:
    """Return caches as JSON data, [{"cache": "deep", "every": 3, ...}]."""
    check_are_caches(caches)
    return [{"cache": cache.name} | fields_to_dict(cache) for cache in caches]


def caches_from_list(data: Sequence[Mapping[str, Any]]) -> list[Cache]:
    """Build caches from the JSON data that `caches_to_list` returned. Raises ArgumentError."""
    caches: list[Cache] = []
    for one in data:
        if not isinstance(one, Mapping):
            raise ArgumentError(
                f'Got {short_repr(one)}, expected a cache as a mapping: {{"cache": "deep", ...}}.'
            )
        name = str(one.get("cache"))[:80]
        values = {key: value for key, value in one.items() if key != "cache"}
        caches.append(build_dataclass(_find_class(name), values, name))
    return caches


def check_are_caches(caches: object) -> Sequence[Cache]:
    """Return what is a list of registered caches; ArgumentError for anything else."""
    if not isinstance(caches, list | tuple) or not all(
        type(cache) in CACHES.values() for cache in caches
    ):
        raise ArgumentError(
            f"Got cache={caches!r:.80}, expected a list of caches, such as [DeepBlocks(every=3)] "
            "of t2i.denoiser.caches; parse_cache('deep:every=3') makes one from its name."
        )
    return caches


def check_caches_go_together(caches: Sequence[Cache]) -> None:
    """Raise ArgumentError for two caches of the same modules."""
    for number, cache in enumerate(caches):
        for other in caches[:number]:
            if type(other) is type(cache):
                raise ArgumentError(
                    f"Got the caches {format_cache(other)} and {format_cache(cache)}, which "
                    "exclude one another: both say when the same modules are computed. Leave one "
                    "of them out."
                )


def _find_class(name: str) -> type[Any]:
    if name not in CACHES:
        raise ArgumentError(f"Unknown cache {name!r}. {suggest_choice(name, CACHES)}")
    return CACHES[name]


def _field_defaults(kind: type[Any]) -> dict[str, Any]:
    """The arguments of a cache, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


CACHES: dict[str, type[Any]] = {
    "deep": DeepBlocks,
    "cross": GatedCrossAttention,
}
"""Name in files and on the command line -> cache class; those of whole blocks come first."""
