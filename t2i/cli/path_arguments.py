"""Commands of `t2i` that refuse an empty text as a path: `Path("")` would be the current folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
import typer.core

from t2i.cli.option_errors import name_param
from t2i.errors import ArgumentError


class NonEmptyPathCommand(typer.core.TyperCommand):
    """Command that raises ArgumentError for an empty text as the value of a path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command line, see typer; empty paths are refused before."""
        if "" in args or any(str(argument).endswith("=") for argument in args):
            typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for param in list_path_params(self):
                value = typed.get(param.name)
                if "" in (value if isinstance(value, list | tuple) else [value]):
                    raise ArgumentError(
                        f"Got {name_param(param)} '': expected a path, and an empty text names no "
                        "file. Give one, or leave it out; a variable of a script may be unset."
                    )
        return super().parse_args(ctx, args)


class NonEmptyPathCommandGroup(typer.Typer):
    """Group of commands of the class `NonEmptyPathCommand`."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return the decorator that adds a command, see typer."""
        return super().command(name, **{"cls": NonEmptyPathCommand, **settings})


def list_path_params(command: Any) -> Iterator[Any]:
    """Yield the parameters of a typer command whose values are paths."""
    annotations = get_type_hints(command.callback)
    for param in command.params:
        annotation = annotations.get(param.name)
        if annotation is Path or Path in get_args(annotation):
            yield param
