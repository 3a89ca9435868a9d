"""A word of the command line that is not of its option's kind."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo

from t2i.cli import app
from tests.cli.command import Cli


def commands(
    group: typer.Typer, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, (*path, str(inner.name)))


def narrow_options() -> Iterator[tuple[str, ...]]:
    """Every option and argument of every command that takes a number or one of some words."""
    for path, callback in commands(app):
        for name, hint in get_type_hints(callback, include_extras=True).items():
            if get_origin(hint) is not Annotated:
                plain, told = hint, ()
            else:
                plain, *told = get_args(hint)
            kinds = get_args(plain) if isinstance(plain, UnionType) else (plain,)
            if not any(kind in (int, float) or get_origin(kind) is Literal for kind in kinds):
                continue
            if any(isinstance(one, ArgumentInfo) for one in told):
                yield *path, name.upper()
                continue
            decls = next((one.param_decls for one in told if getattr(one, "param_decls", ())), ())
            yield *path, *(decls[:1] or (f"--{name.replace('_', '-')}",))


NARROW = sorted(narrow_options())


def test_the_options_are_found() -> None:
    assert ("generate", "--steps") in NARROW
    assert ("data", "check", "--format") in NARROW
    assert len(NARROW) > 20


@pytest.mark.parametrize("typed", NARROW, ids=" ".join)
def test_a_word_of_another_kind_is_said_with_what_belongs_there(
    cli: Cli, typed: tuple[str, ...]
) -> None:
    given = typed if typed[-1].startswith("--") else typed[:-1]
    done = cli(*given, "zun", *([] if given is typed else ["x.png"]))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"Error: Got {typed[-1]} 'zun': expected ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate x --seed 1.5", "Got --seed '1.5': expected a whole number."),
        ("data check x --bucket-step 3", "Got --bucket-step '3': expected a number from 8 on."),
        ("generate x --format yaml", "Got --format 'yaml': expected one of text, json."),
        ("train", "Missing argument 'CONFIG'."),
    ],
)
def test_limits_and_choices_are_named(cli: Cli, words: str, said: str) -> None:
    done = cli(*words.split())
    assert (done.code, done.err.splitlines()) == (2, [f"Error: {said}"])
