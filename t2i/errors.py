"""Typed errors: each says what was given, what was expected and what to do.

The CLI exits with the `exit_code` of the error.
"""

import difflib
from collections.abc import Iterable

MAX_MESSAGE_LETTERS = 10_000
"""Letters of a message."""


class T2IError(Exception):
    """Base class of every error that a user can cause."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, shortened in the middle: an argument may have a megabyte."""
        text = super().__str__()
        if len(text) <= MAX_MESSAGE_LETTERS:
            return text
        return f"{text[: MAX_MESSAGE_LETTERS // 2]} [...] {text[-MAX_MESSAGE_LETTERS // 2 :]}"


class ArgumentError(T2IError, ValueError):
    """Error for an argument, option or config key that cannot be used as given."""

    exit_code = 2


class ModelError(T2IError):
    """Error for a model that is unknown, incomplete, corrupt or refused."""

    exit_code = 3


class DataError(T2IError):
    """Error for a picture, caption or data set that cannot be read."""

    exit_code = 4


class OutputError(T2IError):
    """Error for a result that cannot be written: no space, no permission, a folder in use."""

    exit_code = 5


class TrainingError(T2IError):
    """Error for a training run that had to stop: numbers no longer finite, a checkpoint that
    does not fit.
    """

    exit_code = 6


class AttentionError(T2IError):
    """Error for attention that cannot be read or edited: a probe or an edit without effect."""

    exit_code = 7


class GenerationError(T2IError):
    """Error for a picture that cannot be generated: numbers not finite, or too little memory."""

    exit_code = 8


def format_library_error(error: BaseException) -> str:
    """Return a library's error in one line for use in a message."""
    lines = str(error).strip().splitlines() or [""]
    line = lines[-1 if lines[0].endswith(":") else 0].strip()
    return f"{type(error).__name__}: {line:.200}".removesuffix(": ")


def suggest_choice(name: str, choices: Iterable[str]) -> str:
    """Return a hint: the closest choice, then all: "Did you mean 'ddim'? Choices: ddim, euler"."""
    known = sorted(choices)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Choices: {', '.join(known)}."
