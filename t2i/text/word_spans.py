"""Token spans of the words of a prompt."""

import difflib
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.encoder_interface import TextEncoder, check_encoder_prompts
from t2i.text.prompt import WeightedText
from t2i.text.token_windows import EncoderInput, TokenWindow, build_token_window
from t2i.text.word_pattern import build_word_pattern

MAX_LISTED_WORDS = 12
"""Words of the prompt that an error lists where none is alike."""

Span: TypeAlias = tuple[int, ...]
"""Positions along T, in order."""


def find_word_token_positions(
    text: TextEncoder | PreTrainedTokenizerBase,
    prompt: EncoderInput,
    words: Sequence[str],
    *,
    which: int | None = None,
) -> dict[str, Span]:
    """Return the token positions of each word in a prompt: those of all its occurrences together,
    or of its occurrence number `which` alone.

    Raises ArgumentError for a word that is not in the prompt. A tokenizer alone serves where its
    own windows are the model's, as with CLIP.

    >>> find_word_token_positions(encoder, "a red bicycle, a red door", ["bicycle", "red"])
    {'bicycle': (3,), 'red': (2, 6)}
    >>> find_word_token_positions(encoder, "a red bicycle, a red door", ["red"], which=1)
    {'red': (6,)}
    """
    found = {}
    for word, occurrences in find_token_spans(text, prompt, words).items():
        if which is not None and not -len(occurrences) <= which < len(occurrences):
            times = "once" if len(occurrences) == 1 else f"{len(occurrences)} times"
            raise ArgumentError(
                f"Got which={which}, but {word!r} stands in the prompt {times}: they count from "
                f"0 to {len(occurrences) - 1}."
            )
        chosen = occurrences if which is None else [occurrences[which]]
        found[word] = tuple(sorted({place for span in chosen for place in span}))
    return found


def find_token_spans(
    text: TextEncoder | PreTrainedTokenizerBase, prompt: EncoderInput, words: Sequence[str]
) -> dict[str, tuple[Span, ...]]:
    """Find each word or phrase in a prompt, ignoring case, and return the token positions of each
    occurrence separately.

    A word is whole, so that "car" is not in "carpet", and ends where its letters end: "bicycle"
    is in "a bicycle, red".
    """
    check_encoder_prompts([prompt])
    if isinstance(words, str):
        raise ArgumentError(f"Got the string {words!r} where a list of words is expected.")
    window = text.token_window if isinstance(text, TextEncoder) else build_token_window(text)
    texts = prompt.section_texts if isinstance(prompt, WeightedText) else (prompt,)
    tokens = _tokens(window, prompt)

    found = {}
    for word in words:
        occurrences = [
            span
            for section, section_text in enumerate(texts)
            for match in build_word_pattern(word).finditer(section_text)
            if (span := _covering(tokens[section], *match.span()))
        ]
        if not occurrences:
            raise ArgumentError(build_unknown_word_message(word, " ".join(texts)))
        found[word] = tuple(occurrences)
    return found


def find_token_spans_of_character_ranges(
    text: TextEncoder | PreTrainedTokenizerBase,
    prompt: EncoderInput,
    stretches: Sequence[tuple[int, int]],
    *,
    section: int = 0,
) -> tuple[Span, ...]:
    """Return the token positions of ranges of characters, (first, end), of a prompt, or of one
    section of a weighted text; empty for a range without tokens.
    """
    window = text.token_window if isinstance(text, TextEncoder) else build_token_window(text)
    tokens = _tokens(window, prompt)
    return tuple(_covering(tokens[section], start, end) for start, end in stretches)


def build_unknown_word_message(word: str, text: str) -> str:
    """Return the error message for a word that is not in the prompt; it names similar words of the
    prompt.
    """
    prompt_words = list(dict.fromkeys(re.findall(r"\w+", text)))
    lower = {known.lower(): known for known in prompt_words}
    alike = difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.5)
    if alike:
        return (
            f"{word!r} is not in the prompt. Nearest: {', '.join(lower[name] for name in alike)}."
        )
    more = (
        f" and {len(prompt_words) - MAX_LISTED_WORDS} more"
        if len(prompt_words) > MAX_LISTED_WORDS
        else ""
    )
    named = ", ".join(prompt_words[:MAX_LISTED_WORDS]) or "none"
    return f"{word!r} is not in the prompt. Its words: {named}{more}."


def _tokens(window: TokenWindow, prompt: EncoderInput) -> dict[int, list[tuple[int, int, int]]]:
    """Of each section the start, the end and the position along T of its tokens."""
    tokens = defaultdict(list)
    for number, chunk in enumerate(window.tokenize_into_chunks(prompt)):
        first = number * window.size + len(window.prefix)
        for place, token in enumerate(chunk.tokens, first):
            if token.end > token.start:
                tokens[chunk.section].append((token.start, token.end, place))
    return tokens


def _covering(tokens: Sequence[tuple[int, int, int]], start: int, end: int) -> Span:
    """The tokens that share a letter with a stretch of the text; they are in its order."""
    first = bisect_right(tokens, start, key=lambda token: token[1])
    stretch = takewhile(lambda token: token[0] < end, islice(tokens, first, None))
    return tuple(place for _, _, place in stretch)
