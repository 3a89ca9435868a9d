"""How a command answers: text for people, or one JSON document for programs."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Literal

import typer

from t2i.terminal import print_line, print_note

Format = Annotated[
    Literal["text", "json"],
    typer.Option(help="text for people; json prints one document, errors too."),
]


def print_json(document: Mapping[str, object]) -> None:
    # Escapes of JSON: the document still holds everything, letter for letter.
    print_line(json.dumps(document, indent=2, ensure_ascii=False))


def print_rows(rows: Mapping[str, object]) -> None:
    """Names and values in two columns; never wrapped, so that a path can be copied."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print_line(f"{name:{width}}  {value}")


def note(message: str) -> None:
    """Say something beside the result: it goes where results are not read from."""
    print_note(message)


def print_error(message: str, kind: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"type": kind, "message": message}})
    else:
        with suppress(OSError):  # nobody reads it any more
            typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        print_note(message)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Read from the words themselves: a command line in error may never have been parsed."""
    pairs = zip(arguments, arguments[1:], strict=False)
    return "--format=json" in arguments or ("--format", "json") in pairs
