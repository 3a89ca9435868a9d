"""Learned words (textual inversion, Gal et al. 2022) among the tokens of a prompt: only where they
stand as words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> int:
    """Let the tokenizer know new words, each one token; how many are new.

    Where letters, digits or "_" stand on either side it is no word, so that "zun" is not in
    "zunflower".
    """
    return tokenizer.add_tokens([AddedToken(word, single_word=True) for word in words])


@contextmanager
def adding_whole_words(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Within the block others who add plain words to the tokenizer add them so too."""
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


def is_known(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is one token, also under a name of the vocabulary's own, as "cat</w>" for "cat".

    With another meaning of it every prompt that says it would draw something else.
    """
    tokens = tokenizer.tokenize(word)
    return word in tokenizer.get_vocab() or (len(tokens) == 1 and tokens != [tokenizer.unk_token])


def is_read(word: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer finds a learned word in a text: where it does not, nothing is drawn
    by it, whatever the letters look like."""
    number = tokenizer.get_added_vocab().get(word)
    return number is not None and number in tokenizer(text, verbose=False)["input_ids"]


def spelled_out(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with each learned word of several vectors as all its tokens: "zun zun_1 zun_2".

    diffusers replaces the word wherever its letters stand, in "zunflower" too.
    """
    pieces, done = [], 0
    for place, more in additions(text, tokenizer).items():
        pieces += [text[done:place], more]
        done = place
    return "".join([*pieces, text[done:]])


def additions(text: str, tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Place in the text, in order -> what is to be put in there, behind a learned word."""
    learned = tokenizer.get_added_vocab()
    more = {number: further(word, learned) for word, number in learned.items()}
    if not any(more.values()):
        return {}
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return {
        end: "".join(f" {word}" for word in follow)
        for number, (_, end) in zip(read["input_ids"], read["offset_mapping"], strict=True)
        if (follow := more.get(number))
    }


def further(word: str, learned: dict[str, int]) -> list[str]:
    """The tokens that follow a word, as diffusers names them: zun_1, zun_2, ..."""
    found: list[str] = []
    while (name := f"{word}_{len(found) + 1}") in learned:
        found.append(name)
    return found
