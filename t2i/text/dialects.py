"""Marks and number formats of the prompt dialects."""

import re
from typing import Literal, TypeAlias

Dialect: TypeAlias = Literal["a1111", "comfy"]

MARK_PATTERNS: dict[Dialect, re.Pattern[str]] = {
    "a1111": re.compile(r"\\(?:[()\[\]\\:|]|(?:BREAK|AND)\b)|[()\[\]:|]|\b(?:BREAK|AND)\b"),
    "comfy": re.compile(r"\\[()]|[():]"),
}
SPECIAL_TEXT_PATTERNS: dict[Dialect, re.Pattern[str]] = {
    "a1111": re.compile(r"[()\[\]\\:|]|\b(?:BREAK|AND)\b"),
    "comfy": re.compile(r"[()]"),
}
STEP_PATTERN = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*")
WEIGHT_PATTERN = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)\s*")
# What was surely meant as one: it has a digit, and nothing that numbers lack.
MISTYPED_WEIGHT_PATTERN = re.compile(r"\s*[-+.,]*\d[-+.,\d]*\s*")


def parse_weight_if_number(written: str, dialect: Dialect) -> float | None:
    """Parse what stands after a colon in a prompt, as "1.3" in "(cat:1.3)", to a word weight;
    return None if it is text.

    A1111 reads digits with a point; ComfyUI whatever Python reads as a number.

    >>> parse_weight_if_number("1e1", "a1111"), parse_weight_if_number("1e1", "comfy")
    (None, 10.0)
    """
    if dialect == "a1111" and not WEIGHT_PATTERN.fullmatch(written):
        return None
    try:
        return float(written)
    except ValueError:
        return None
