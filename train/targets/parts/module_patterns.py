"""Selection of the modules of a model by patterns over their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from t2i.errors import ArgumentError, suggest_choice

ModulePatterns = tuple[str, ...]


def match_module_names(model: nn.Module, patterns: Sequence[str], key: str) -> list[str]:
    """Return the names of the modules that any pattern matches; "" is the whole model.

    A pattern is a module's name, the end of one after a dot, or either with * and ?.

    key : config key of the patterns, for messages

    Raises ArgumentError, with the nearest name, for a pattern that matches nothing.
    """
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            ends = {".".join(name.split(".")[-count:]) for name in names for count in (1, 2)}
            raise ArgumentError(
                f"{key} = {pattern!r} matches no module. {suggest_choice(pattern, sorted(ends))}"
            )
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
