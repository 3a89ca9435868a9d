"""An empty text as a path is refused by every command: it would be the current folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from t2i.cli import app
from t2i.cli.option_parsing.path_arguments import iter_path_params
from tests.cli.command import Cli


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


PATHS = [
    (names, command, param)
    for names, command in commands(typer.main.get_command(app))
    for param in iter_path_params(command)
]


def test_the_paths_of_commands_are_found() -> None:
    found = {(*names, param.name) for names, _, param in PATHS}
    assert {
        ("invert", "photo"),
        ("edit", "image"),
        ("lora", "merge", "out"),
        ("serve", "folder"),
    } <= (found)


@pytest.mark.parametrize(
    ("names", "command", "param"), PATHS, ids=["-".join((*n, p.name)) for n, _, p in PATHS]
)
def test_an_empty_path_is_refused(
    cli: Cli, names: tuple[str, ...], command: Any, param: Any
) -> None:
    arguments = [
        "" if other is param else "7"
        for other in command.params
        if other.param_type_name == "argument"
    ]
    option = param.opts[0]
    typed = [[option, ""], [f"{option}="]] if option.startswith("-") else [[]]
    for words in typed:
        done = cli(*names, *arguments, *words)
        assert done.code == 2, done.err
        assert "'': expected a path, and an empty text names no file" in done.err
        assert done.err.count("\n") == 1
    assert not list(Path().iterdir())


def test_the_current_folder_and_an_empty_prompt_are_taken(cli: Cli) -> None:
    done = cli("invert", ".", "", "--out", "x")
    assert done.err == "Error: . is not a regular file: expected the file of the picture.\n"
