"""What the prompts of a run say, and where their words stand among the keys.

T text tokens.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.attention.denoiser_pass import check_prompt
from t2i.errors import ArgumentError
from t2i.text.alignment import TokenMapping, refinement_mapping, replacement_matrix
from t2i.text.encoder_interface import TextEncoder
from t2i.text.learned_words import continuation_insertions
from t2i.text.token_layout import EncoderInput
from t2i.text.word_spans import Span, spans

Word = str | Span
"""A word or phrase of the prompt, or the places along T themselves."""
Words = str | tuple[str, ...]
"""One word of a prompt, or several."""
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """What turns a prompt into tokens, and where they begin along T."""

    text: TextEncoder | PreTrainedTokenizerBase
    first: int = 0
    tokens: int | None = None
    """How many it fills; None: all from `first` on."""
    reads: Callable[[str], str] | None = None
    """What its pipeline makes of a text beforehand."""

    def text_of(self, prompt: EncoderInput) -> EncoderInput:
        if self.reads is None:
            return prompt
        if isinstance(prompt, str):
            return self.reads(prompt)
        text = self.text
        tokenizer = text.layout.tokenizer if isinstance(text, TextEncoder) else text
        return prompt.with_additions(partial(continuation_insertions, tokenizer=tokenizer))

    def places(self, prompt: EncoderInput, word: str) -> Span:
        """Of those along T that it fills: of a learned word all its tokens."""
        read = word if self.reads is None else self.reads(word)
        try:
            places = spans(self.text, self.text_of(prompt), [read])[read]
        except ArgumentError as error:
            raise ArgumentError(str(error).replace(repr(read), repr(word))) from None
        return tuple(
            self.first + place for place in places if self.tokens is None or place < self.tokens
        )


@dataclass(frozen=True, slots=True)
class WordMentions:
    """Words that were asked for in a run, as (prompt, word): those that some step of it says, and
    for the others what to answer."""

    prompt_tokens: set[tuple[int, str]] = field(default_factory=set)
    unsaid: dict[tuple[int, str], ArgumentError] = field(default_factory=dict)

    def check(self) -> None:
        """The run is over: raise ArgumentError for a word that no step of it said."""
        for mention, error in self.unsaid.items():
            if mention not in self.prompt_tokens:
                raise error


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The prompts of a run, each read by the same readers, as they are at some of its steps."""

    prompts: tuple[EncoderInput, ...]
    readers: tuple[PromptTokenizer, ...]
    mentions: WordMentions = field(default_factory=WordMentions, repr=False, compare=False)
    """Shared by all steps of a run."""
    unknown: int = 0
    """How many prompts there are whose texts nobody told."""
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def count(self) -> int:
        """How many prompts the run has."""
        return len(self.prompts) or self.unknown

    def span(self, prompt: int, word: Word) -> Span:
        """The places of a word along T. Raises ArgumentError for one that the prompt has not.

        A prompt in a grammar may say a word at other steps only: it has no places then, and the
        session raises when the run is over and nothing said it.
        """
        if not isinstance(word, str):
            return places_of(word)
        return self.once(("span", prompt, word), lambda: self._find(prompt, word))

    def _find(self, prompt: int, word: str) -> Span:
        if not self.readers:
            raise ArgumentError(
                f"Cannot look for {word!r}: this model came without a tokenizer. Give one, "
                "attend(model, prompts=..., tokenizer=...), or the places of the word, (3, 4)."
            )
        if not self.prompts:
            raise ArgumentError(
                f"Cannot look for {word!r}: the prompts are not known. Tell them, "
                "attend(pipe, prompts=[...]), one for each of the call."
            )
        check_prompt("prompt", prompt, len(self.prompts))
        prompt_tokens = self.prompts[prompt]
        try:
            places = tuple(
                place for reader in self.readers for place in reader.places(prompt_tokens, word)
            )
            if not places:
                raise ArgumentError(
                    f"{word!r} stands behind the tokens that this model reads of prompt {prompt}: "
                    "shorten the prompt before it."
                )
        except ArgumentError as error:
            if isinstance(prompt_tokens, str):
                if len(self.prompts) == 1:
                    raise
                raise ArgumentError(f"{error} (Prompt {prompt}: {prompt_tokens!r:.80})") from error
            self.mentions.unsaid[prompt, word] = error
            return ()
        self.mentions.prompt_tokens.add((prompt, word))
        return places

    def replacement(self, source: int, target: int, length: int) -> Tensor:
        """(T, T), see t2i.text.alignment; one block per reader."""

        def make() -> Tensor:
            matrix_TT = torch.eye(length, dtype=torch.float64)
            for reader in self.readers:
                first, end = self._part(reader, length)
                texts = self._pair(source, target, reader)
                matrix_TT[first:end, first:end] = replacement_matrix(
                    reader.text, *texts, end - first
                )
            return matrix_TT

        return self.once(("replacement", source, target, length), make)

    def refinement(self, source: int, target: int, length: int) -> TokenMapping:
        """Source places and whether there are any, (T,) each."""

        def make() -> TokenMapping:
            source_T, found_T = torch.arange(length), torch.ones(length, dtype=torch.bool)
            for reader in self.readers:
                first, end = self._part(reader, length)
                one = refinement_mapping(
                    reader.text, *self._pair(source, target, reader), end - first
                )
                source_T[first:end], found_T[first:end] = one.source_T + first, one.found_T
            return TokenMapping(source_T, found_T)

        return self.once(("refinement", source, target, length), make)

    def once(self, key: Hashable, make: Callable[[], Made], moment: object = None) -> Made:
        """What `make` gives, kept under this key for as long as the moment is the same."""
        known = self._known.get(key)
        if known is None or known[0] != moment:
            known = self._known[key] = (moment, make())
        made: Made = known[1]
        return made

    def pair(self, source: int, target: int) -> tuple[EncoderInput, EncoderInput]:
        """Two of the prompts, to be compared."""
        if not self.prompts:
            raise ArgumentError(
                "Cannot compare prompts that are not known: tell them, "
                "attend(x, prompts=[...]), one for each of the call."
            )
        check_prompt("source", source, len(self.prompts))
        check_prompt("target", target, len(self.prompts))
        return self.prompts[source], self.prompts[target]

    def _pair(
        self, source: int, target: int, reader: PromptTokenizer
    ) -> tuple[EncoderInput, EncoderInput]:
        if not self.prompts or not self.readers:
            raise ArgumentError(
                "Cannot compare prompts that are not known, or without a tokenizer: tell them, "
                "attend(x, prompts=[...]), one for each of the call, and of a model alone "
                "tokenizer=... too."
            )
        one, other = self.pair(source, target)
        return reader.text_of(one), reader.text_of(other)

    def _part(self, reader: PromptTokenizer, length: int) -> tuple[int, int]:
        end = length if reader.tokens is None else reader.first + reader.tokens
        return reader.first, min(end, length)

    def per_token(
        self, prompt: int, values: Mapping[str, float], length: int, other: float = 1.0
    ) -> Tensor:
        """A number for each token (T,): that of its word, or `other`."""
        numbers_T = torch.full((length,), other, dtype=torch.float64)
        for word, value in values.items():
            numbers_T[list(self.span(prompt, word))] = value
        return numbers_T


def several(words: Words) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def check_prompts(prompts: Sequence[EncoderInput]) -> tuple[EncoderInput, ...]:
    if isinstance(prompts, str):
        raise ArgumentError(f"Got prompts={prompts!r}, expected a list of prompts: [prompt].")
    for prompt in prompts:
        if not isinstance(prompt, EncoderInput):
            raise ArgumentError(
                f"Got a {type(prompt).__name__} among the prompts, expected strings. Our pipelines "
                "tell a Prompt themselves: leave prompts= out."
            )
    return tuple(prompts)


def places_of(word: object) -> Span:
    """Places along T that somebody gave in the place of a word."""
    if (
        not isinstance(word, tuple | list)
        or not word
        or not all(isinstance(p, int) and not isinstance(p, bool) and p >= 0 for p in word)
    ):
        raise ArgumentError(
            f"Got {word!r} where a word is expected: a text such as 'cat', or its places along the "
            "tokens, whole numbers from 0, such as (3, 4)."
        )
    return tuple(word)
