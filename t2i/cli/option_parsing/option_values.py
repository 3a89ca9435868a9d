"""Texts and numbers as parts of an option's value: quoted and exact, so that they are read as they
were meant.

A part in double quotes is taken as it is, whatever it contains; a double quote in it stands twice,
as in a CSV file.
"""

import re
from decimal import Decimal

from t2i.errors import ArgumentError

NO_FILES_VALUE = "none"
"""Value of --lora and other options for none, in place of those of an image or a command."""
SPECIAL_LETTERS = frozenset(',:;="')
"""Letters with a meaning of their own between the parts of a value."""
QUOTED_PATTERN = re.compile(r'"((?:[^"]|"")*)"')
QUOTED_PART_PATTERN = re.compile(r'(?:^|(?<=[,:;=]))\s*"((?:[^"]|"")*)"(?=\s*(?:[,:;=]|\Z))')
"""Quoted text that fills a part of a value."""


def quote_part(text: str, special: frozenset[str] = SPECIAL_LETTERS) -> str:
    """Return a text as a part of an option's value: in double quotes if it is empty, begins or ends
    with white space, has a letter with a meaning of its own, or is the word for none.

    special : these letters
    """
    plain = text and text == text.strip() and not special.intersection(text)
    if plain and text != NO_FILES_VALUE:
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def unquote_part(part: str, option: str) -> str:
    """Return the text that a part of an option's value stands for, without white space around it.

    Raises ArgumentError for a quoted text with something after it, or without an end.
    """
    part = part.strip()
    if not part.startswith('"'):
        return part
    quoted = QUOTED_PATTERN.fullmatch(part)
    if quoted is None:
        raise ArgumentError(
            f"Got {option} with {part!r:.80}: a text that begins with a double quote ends with "
            'one, and has each of its own twice, as in """Hello"", she said".'
        )
    return quoted[1].replace('""', '"')


def is_quoted(part: str) -> bool:
    """Return True if a part of an option's value is a quoted text."""
    return QUOTED_PATTERN.fullmatch(part.strip()) is not None


def hide_quoted_parts(text: str) -> str:
    """Return an option's value of the same length, without the letters of its quoted parts."""
    return QUOTED_PART_PATTERN.sub(lambda found: '"' * len(found[0]), text)


def split_outside_quotes(
    text: str, separator: str | re.Pattern[str], max_splits: int | None = None
) -> list[str]:
    """Split an option's value at a separator that is in no quoted part of it; the parts keep their
    quotes.
    """
    pattern = re.compile(re.escape(separator)) if isinstance(separator, str) else separator
    parts, start = [], 0
    for number, found in enumerate(pattern.finditer(hide_quoted_parts(text))):
        if number == max_splits:
            break
        parts.append(text[start : found.start()])
        start = found.end()
    return [*parts, text[start:]]


def partition_last_outside_quotes(text: str, separator: str) -> tuple[str, str, str]:
    """Split an option's value as `text.rpartition(separator)` does, but in none of its quoted
    parts.
    """
    place = hide_quoted_parts(text).rfind(separator)
    if place < 0:
        return "", "", text
    return text[:place], separator, text[place + len(separator) :]


def format_number(value: float) -> str:
    """Return the shortest decimal number that is read as `value`, without an exponent."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    text = format(Decimal(repr(float(value))), "f")
    return text.removesuffix(".0")
