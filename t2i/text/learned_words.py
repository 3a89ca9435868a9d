"""Learned words (textual inversion, Gal et al. 2022) among the tokens of a prompt.

A learned word counts only where it is a whole word.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase


def add_words_to_tokenizer(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> int:
    """Add words to a tokenizer, one token each, and return the number of new ones.

    A word next to letters, digits or "_" does not match: "zun" is not in "zunflower".
    """
    return tokenizer.add_tokens([AddedToken(word, single_word=True) for word in words])


@contextmanager
def adding_tokens_as_whole_words(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Patch a tokenizer's `add_tokens` within the block, so that added tokens match as whole words
    only: "zun" not in "zunflower".
    """
    known: Any = tokenizer
    added = known.add_tokens

    def add(words: Any, special_tokens: bool = False) -> int:
        plain = [words] if isinstance(words, str | AddedToken) else list(words)
        if not special_tokens:
            plain = [AddedToken(w, single_word=True) if isinstance(w, str) else w for w in plain]
        return int(added(plain, special_tokens=special_tokens))

    known.add_tokens = add
    try:
        yield
    finally:
        del known.add_tokens


def is_known_to_tokenizer(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if a word is already one token of the tokenizer's vocabulary, as "cat</w>" for
    "cat".

    Such a word must not be learned anew: every prompt with it would change its meaning.
    """
    tokens = tokenizer.tokenize(word)
    return word in tokenizer.get_vocab() or (len(tokens) == 1 and tokens != [tokenizer.unk_token])


def is_tokenized_as_learned_word(word: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if the tokenizer reads a learned word (textual inversion) in a text as the word's
    own token.
    """
    number = tokenizer.get_added_vocab().get(word)
    return number is not None and number in tokenizer(text, verbose=False)["input_ids"]


def expand_learned_words(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Expand each learned word of several vectors in a text to all its tokens: "zun" to "zun zun_1
    zun_2".

    diffusers replaces the word wherever its letters occur, in "zunflower" too.
    """
    pieces, done = [], 0
    for place, more in find_continuation_insertions(text, tokenizer).items():
        pieces += [text[done:place], more]
        done = place
    return "".join([*pieces, text[done:]])


def find_continuation_insertions(text: str, tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Find where a text's learned words of several vectors need their further tokens; return
    {character position: text to insert}, such as {7: " zun_1 zun_2"}.
    """
    learned = tokenizer.get_added_vocab()
    more = {number: list_continuation_tokens(word, learned) for word, number in learned.items()}
    if not any(more.values()):
        return {}
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return {
        end: "".join(f" {word}" for word in follow)
        for number, (_, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
        if (follow := more.get(number))
    }


def list_continuation_tokens(word: str, learned: dict[str, int]) -> list[str]:
    """Return the names of the further tokens of a learned word of several vectors, as diffusers
    names them: zun_1, zun_2, ...
    """
    found: list[str] = []
    while (name := f"{word}_{len(found) + 1}") in learned:
        found.append(name)
    return found
