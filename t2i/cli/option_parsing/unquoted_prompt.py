"""Hint for a prompt that was typed without quotes."""

from collections.abc import Sequence
from itertools import takewhile
from shlex import quote

PROMPT_POSITIONS = {"generate": 0, "inspect": 0, "invert": 1}
"""Command -> place of its prompt among its arguments, from 0."""


def suggest_quotes(arguments: Sequence[str], message: str) -> str:
    """Return a hint to quote the prompt if a command-line error comes from a prompt typed without
    quotes, else "".
    """
    command, *rest = arguments or [""]
    if not message.startswith("Got unexpected extra argument") or command not in PROMPT_POSITIONS:
        return ""
    before, rest = rest[: PROMPT_POSITIONS[command]], rest[PROMPT_POSITIONS[command] :]
    command = " ".join([command, *map(quote, before)])
    words = list(takewhile(lambda word: not word.startswith("-"), rest))
    if len(words) < 2:
        return f' Put the prompt into quotes: t2i {command} "a heart above a star"'
    options = "".join(f" {quote(word)}" for word in rest[len(words) :])
    prompt = " ".join(words).translate({ord(sign): f"\\{sign}" for sign in '\\"$`'})
    return f' Put the prompt into quotes: t2i {command} "{prompt}"{options}'
