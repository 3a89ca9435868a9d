"""Truncation of prompts that are too long; a warning names the words left out."""

import re
import warnings
from collections.abc import Sequence

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.prompt import WeightedText
from t2i.text.token_windows import MAX_WORD_LETTERS, EncoderInput, TokenChunk, TokenWindow

MAX_CHUNKS = 32
"""Windows that one prompt may fill."""
MAX_QUOTED_WORDS = 12
"""Words of the lost end that a message spells out; of the rest it gives the number."""


def tokenize_and_truncate(
    window: TokenWindow, prompts: Sequence[EncoderInput], most: int | None
) -> list[list[TokenChunk]]:
    """Tokenize prompts and return the chunks of each, at most `most`; tokens beyond that are
    dropped with a warning.

    Raises ArgumentError above MAX_CHUNKS.
    """
    divided = []
    for prompt in prompts:
        chunks = window.tokenize_into_chunks(prompt)
        if most is not None and len(chunks) > most:
            chunks, lost = truncate_chunks_and_fill_last(chunks, most, window.capacity)
            if lost:
                warn_of_lost_words(prompt, lost, most * window.size)
        if len(chunks) > MAX_CHUNKS:
            _, dropped = split_text_at_chunk(prompt, chunks[MAX_CHUNKS])
            raise ArgumentError(
                f"The prompt fills {len(chunks)} windows of {window.size} tokens; at most "
                f"{MAX_CHUNKS} are read. What would be lost: {quote_first_words(dropped)}. "
                "Shorten it."
            )
        divided.append(chunks)
    return divided


def truncate_chunks_and_fill_last(
    chunks: Sequence[TokenChunk], most: int, room: int
) -> tuple[list[TokenChunk], TokenChunk | None]:
    """Truncate a prompt's token chunks to `most` and fill the last one up with following tokens;
    return the kept chunks, and the first dropped chunk or None.
    """
    kept, rest = list(chunks[:most]), chunks[most:]
    last = kept[-1]
    same = [token for chunk in rest if chunk.section == last.section for token in chunk.tokens]
    free = room - len(last.tokens)
    kept[-1] = TokenChunk(last.section, (*last.tokens, *same[:free]))
    if same[free:]:
        return kept, TokenChunk(last.section, tuple(same[free:]))
    return kept, next((chunk for chunk in rest if chunk.section != last.section), None)


def warn_of_lost_words(prompt: EncoderInput, lost: TokenChunk, tokens: int) -> None:
    """Warn that a prompt is too long, and which of its words are left out."""
    kept, dropped = split_text_at_chunk(prompt, lost)
    warnings.warn(
        f"The prompt is longer than the {tokens} tokens this model reads. Left out: "
        f"{quote_first_words(dropped)}. The picture is made from: {keep_last_letters(kept)!r}. "
        "Shorten the prompt, or move what matters to its beginning.",
        stacklevel=5,
    )


def split_text_at_chunk(prompt: EncoderInput, lost: TokenChunk) -> tuple[str, str]:
    """Split a prompt's text where a chunk of its tokens begins: return the text before the chunk's
    first token, and the text from there on.
    """
    texts = prompt.section_texts if isinstance(prompt, WeightedText) else (prompt,)
    position = lost.tokens[0].start if lost.tokens else 0
    kept, dropped = split_before_word(texts[lost.section], position)
    before = [*texts[: lost.section], kept]
    after = [dropped, *texts[lost.section + 1 :]]
    return " ".join(before).strip(), " ".join(after).strip()


def split_before_word(text: str, position: int) -> tuple[str, str]:
    """Split a text in two at a character position; if that is inside a word, before the word."""
    beginning = re.search(r"\w+\Z", text[max(0, position - MAX_WORD_LETTERS) : position])
    if beginning and beginning.start() > 0 and text[position : position + 1].isalnum():
        position -= len(beginning.group())
    return text[:position].rstrip(), text[position:].strip()


def quote_first_words(text: str) -> str:
    """Format the first words of a text for a message, as in "'red', 'cat' and 3 more words"."""
    words = text.split()
    named = ", ".join(repr(keep_last_letters(word)) for word in words[:MAX_QUOTED_WORDS])
    more = len(words) - MAX_QUOTED_WORDS
    return f"{named} and {plural(more, 'more word')}" if more > 0 else named


def keep_last_letters(text: str, letters: int = 60) -> str:
    """Shorten a long text to "..." and its last letters; return a short text unchanged."""
    return text if len(text) <= letters else f"...{text[-letters:]}"
