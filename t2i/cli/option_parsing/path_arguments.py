"""Commands of `t2i` that refuse an empty text as a path: `Path("")` would be the current folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
import typer.core

from t2i.cli.option_parsing.option_errors import format_param_name
from t2i.errors import ArgumentError


class NonEmptyPathCommand(typer.core.TyperCommand):
    """Typer command that raises ArgumentError for an empty string as the value of a path option or
    argument.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a typer command's arguments, after raising ArgumentError if the value of a path
        option or argument is empty.
        """
        if "" in args or any(str(argument).endswith("=") for argument in args):
            typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for param in iter_path_params(self):
                value = typed.get(param.name)
                if "" in (value if isinstance(value, list | tuple) else [value]):
                    raise ArgumentError(
                        f"Got {format_param_name(param)} '': expected a path, and an empty text "
                        "names no file. Give one, or leave it out; a variable of a script may be "
                        "unset."
                    )
        return super().parse_args(ctx, args)


class NonEmptyPathCommandGroup(typer.Typer):
    """Typer application whose commands raise ArgumentError for an empty path: each is a
    `NonEmptyPathCommand`.
    """

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return the decorator that adds a function to a typer application as a command that
        refuses empty paths.
        """
        return super().command(name, **{"cls": NonEmptyPathCommand, **settings})


def iter_path_params(command: Any) -> Iterator[Any]:
    """Yield the parameters of a typer command whose values are paths."""
    annotations = get_type_hints(command.callback)
    for param in command.params:
        annotation = annotations.get(param.name)
        if annotation is Path or Path in get_args(annotation):
            yield param
