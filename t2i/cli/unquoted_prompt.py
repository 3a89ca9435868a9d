"""Hint for a prompt that was typed without quotes."""

from collections.abc import Sequence
from itertools import takewhile
from shlex import quote

NUM_PROMPTS = {"generate": 1, "inspect": 1, "edit": 2}
"""Command -> number of prompts that it takes."""


def suggest_quotes(arguments: Sequence[str], message: str) -> str:
    """Return a hint to put the prompt into quotes, or "" if the error has another cause."""
    command, *rest = arguments or [""]
    if not message.startswith("Got unexpected extra argument") or command not in NUM_PROMPTS:
        return ""
    if NUM_PROMPTS[command] > 1:
        return ' Put each prompt into quotes: t2i edit "a cat" "a dog"'
    words = list(takewhile(lambda word: not word.startswith("-"), rest))
    if len(words) < 2:
        return f' Put the prompt into quotes: t2i {command} "a heart above a star"'
    options = "".join(f" {quote(word)}" for word in rest[len(words) :])
    prompt = " ".join(words).translate({ord(sign): f"\\{sign}" for sign in '\\"$`'})
    return f' Put the prompt into quotes: t2i {command} "{prompt}"{options}'
