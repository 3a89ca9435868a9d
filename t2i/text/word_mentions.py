"""Words of a prompt as an alignment by hand names them: one of several occurrences, "dog#2"."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.alignment import find_token_spans_of_word_indices, split_into_lowercase_words
from t2i.text.encoder_interface import TextEncoder
from t2i.text.token_windows import EncoderInput
from t2i.text.word_pattern import build_word_pattern
from t2i.text.word_spans import Span, build_unknown_word_message, find_token_spans


class WordMention(NamedTuple):
    """Word or phrase of a prompt, and which of its occurrences is meant, counted from 1; None for
    the only one.
    """

    word: str
    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> "WordMention":
        """Parse "dog", or "dog#2" for the second of several dogs."""
        match = re.fullmatch(r"(.*\S)\s*#(\d{1,3})", text.strip())
        return cls(text.strip()) if match is None else cls(match[1], int(match[2]))


def number_repeated_words(words: Sequence[str]) -> list[str]:
    """Return how each word of a prompt is named: with its number where it occurs several times.

    >>> number_repeated_words(["a", "cat", "and", "a", "dog"])
    ['a#1', 'cat', 'and', 'a#2', 'dog']
    """
    return [
        f"{word}#{words[: place + 1].count(word)}" if words.count(word) > 1 else word
        for place, word in enumerate(words)
    ]


def find_mentioned_tokens(
    text: TextEncoder | PreTrainedTokenizerBase, prompt: EncoderInput, mention: WordMention
) -> Span:
    """Return the token positions of one occurrence of a word or phrase in a prompt.

    Raises ArgumentError for a word that the prompt does not contain, one of several without its
    number, and a number beyond the last one.
    """
    word, number = mention
    words = split_into_lowercase_words(prompt)
    places = [place for place, one in enumerate(words) if one == word.lower()]
    if places:
        check_occurrence_number(mention, len(places))
        chosen = places[(number or 1) - 1]
        return find_token_spans_of_word_indices(text, prompt, [chosen])[0]
    spans = find_token_spans(text, prompt, [word])[word]  # a phrase, or a part of a word
    check_occurrence_number(mention, len(spans))
    return spans[(number or 1) - 1]


def check_occurrence_number(
    mention: WordMention, occurrences: int, where: str = "the prompt"
) -> None:
    """Raise ArgumentError if a word mention has a number beyond the word's occurrences, or none
    although the word occurs several times.

    where : what is searched, for messages
    """
    word, number = mention
    if number is None and occurrences > 1:
        raise ArgumentError(
            f"{word!r} occurs {plural(occurrences, 'time')} in {where}: say which is meant, as in "
            f"{word}#1 or {word}#{occurrences}."
        )
    if number is not None and not 1 <= number <= occurrences:
        raise ArgumentError(
            f"Got {word}#{number}, but {word!r} occurs {plural(occurrences, 'time')} in {where}: "
            "they count from 1."
        )


def check_mention_in_text(mention: WordMention, text: str, where: str) -> None:
    """Raise ArgumentError if a word mention such as "dog#2" names a word that a text does not
    contain, or does not say which of several occurrences is meant.

    where : what the text is of, for messages
    """
    words = split_into_lowercase_words(text)
    occurrences = words.count(mention.word.lower()) or len(
        build_word_pattern(mention.word).findall(text)
    )
    if not occurrences:
        message = build_unknown_word_message(mention.word, text)
        raise ArgumentError(message.replace("the prompt", where, 1))
    check_occurrence_number(mention, occurrences, where)
