"""Printing to terminals: escape sequences from untrusted text are made visible.

Names of files and members, captions, configs and READMEs are untrusted text; therefore everything
is printed through this module. A lost terminal never stops work.
"""

import json
import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from t2i.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
KEPT_WHITESPACE = "\n\t"
"""What stays in a text of several lines."""


def escape_controls(text: str, keep: str = "") -> str:
    """Return the text with characters that a terminal would interpret replaced by their escapes.

    keep : characters that stay, such as a line feed
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"\\u{ord(c):04x}" if c not in keep and is_control_character(c) else c for c in text
    )


def is_control_character(character: str) -> bool:
    """Return True if a terminal would interpret the character.

    These are controls, surrogates, line separators and bidirectional marks.
    """
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI_CONTROLS


def print_note_to_stderr(text: object) -> None:
    """Print a line to stderr, with control characters escaped; ignore a closed or full stream."""
    with suppress(OSError, ValueError):  # hung up, full, closed
        print(escape_controls(str(text), KEPT_WHITESPACE), file=sys.stderr, flush=True)


def plural(number: int, noun: str) -> str:
    """Return a count and its noun in the right grammatical number, such as "1 picture" or "2
    pictures".
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_result_line(text: object) -> None:
    """Print a line of a command's result to stdout. Raises OutputError where it cannot be
    written.
    """
    with _answering():
        print(
            escape_controls(str(text), KEPT_WHITESPACE), flush=True
        )  # who reads it in a pipe may interrupt us


def flush_stdout() -> None:
    """Flush stdout. Raises OutputError if it is closed or cannot be written to."""
    if sys.stdout is None:  # as after `t2i show x.png >&-`
        raise OutputError(
            "Cannot write the result to the standard output: it is closed. Send it elsewhere, such "
            "as to /dev/null."
        )
    with _answering():
        sys.stdout.flush()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has read enough
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write the result to the standard output: {error.strerror}. Free some space, "
            "or send it elsewhere."
        ) from error


def reopen_closed_streams() -> None:
    """Open /dev/null in place of closed standard streams at process start.

    Otherwise a file opened later would get the number of a closed stream, and library output would
    be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one


def flush_or_discard_output() -> None:
    """Flush stdout and stderr before the process ends; discard output that cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class EscapedTextRenderable:
    """Rich renderable that wraps another one, such as a table, and escapes the control characters
    in its text.
    """

    def __init__(self, inner: "RenderableType") -> None:
        self.inner = inner

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[Segment]":
        from rich.segment import Segment

        for segment in console.render(self.inner, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape_controls(segment.text, KEPT_WHITESPACE), segment.style)


def print_rich(inner: "RenderableType" = "") -> None:
    """Print a rich table or text on stdout."""
    from rich.console import Console

    Console(highlight=False).print(EscapedTextRenderable(inner))


@contextmanager
def showing_warnings_on_one_line() -> Iterator[list[str]]:
    """Show each warning as one line without source code; yield a list that collects
    the messages.
    """
    messages: list[str] = []

    def show(message: Warning | str, *_: object, **__: object) -> None:
        messages.append(str(message))
        print_note_to_stderr(f"Warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield messages


@contextmanager
def escaping_log_records() -> Iterator[None]:
    """Escape control characters in the messages of all log records within the block."""
    before = logging.getLogRecordFactory()

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        with suppress(Exception):  # the library reports a message that does not fit its arguments
            record.msg, record.args = escape_controls(record.getMessage(), KEPT_WHITESPACE), ()
        return record

    logging.setLogRecordFactory(made)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def format_short_json(value: object) -> str:
    """Format a value as JSON of at most 80 characters, so that any text is safe to print."""
    try:
        text = json.dumps(value)
    except ValueError:  # nested deeper than it can be written
        text = "..."
    return text if len(text) <= 80 else f"{text[:77]}..."
