"""Output of a command: text for people, or one JSON document for programs."""

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Literal

import typer

from t2i.terminal import print_note_to_stderr, print_result_line

Format = Literal["text", "json"]
FormatOption = Annotated[
    Format,
    typer.Option(help="text for people; json prints one document, errors too."),
]


def print_json(document: Mapping[str, object]) -> None:
    """Print the result of a command as indented JSON to standard output."""
    # Escapes of JSON: the document still holds everything, letter for letter.
    print_result_line(json.dumps(document, indent=2, ensure_ascii=False))


def print_two_columns(rows: Mapping[str, object]) -> None:
    """Print names and values in two columns, never wrapped, so that a path can be copied."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print_result_line(f"{name:{width}}  {value}")


def print_remark(message: str) -> None:
    """Print a remark to standard error, beside the result on standard output."""
    print_note_to_stderr(message)


def print_error(message: str, kind: str, *, as_json: bool) -> None:
    """Print an error as a line on standard error, or as a JSON document."""
    if as_json:
        print_json({"error": {"type": kind, "message": message}})
    else:
        with suppress(OSError):  # nobody reads it any more
            typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        print_note_to_stderr(message)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Return True if the command-line arguments choose JSON output.

    They are not parsed: a command line in error may never have been.
    """
    pairs = itertools.pairwise(arguments)
    return "--format=json" in arguments or ("--format", "json") in pairs
