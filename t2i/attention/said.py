"""What the prompts of a run say, and where their words stand among the keys.

T text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.attention.rows import check_prompt
from t2i.errors import ArgumentError
from t2i.text.alignment import Refined, refinement, replacement
from t2i.text.interface import TextEncoder
from t2i.text.layout import Readable
from t2i.text.words import Span, spans

Word = str | Span
"""A word or phrase of the prompt, or the places along T themselves."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What turns a prompt into tokens, and where they begin along T."""

    text: TextEncoder | PreTrainedTokenizerBase
    first: int = 0
    tokens: int | None = None
    """How many it fills; None: all from `first` on."""


@dataclass(frozen=True, slots=True)
class Said:
    """The prompts of a run, each read by the same readers."""

    prompts: tuple[Readable, ...]
    readers: tuple[Reader, ...]
    _known: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    def span(self, prompt: int, word: Word) -> Span:
        """The places of a word along T. Raises ArgumentError for one that the prompt has not."""
        check_prompt("prompt", prompt, len(self.prompts))
        if not isinstance(word, str):
            return tuple(word)
        if not self.readers:
            raise ArgumentError(
                f"Cannot look for {word!r}: this model came without a tokenizer. Give one, "
                "attend(model, prompts=..., tokenizer=...), or the places of the word, (3, 4)."
            )
        return tuple(
            reader.first + place
            for reader in self.readers
            for place in spans(reader.text, self.prompts[prompt], [word])[word]
        )

    def replacement(self, source: int, target: int, length: int) -> Tensor:
        """(T, T), see t2i.text.alignment; one block per reader."""
        key = ("replacement", source, target, length)
        if key not in self._known:
            matrix_TT = torch.eye(length)
            for reader in self.readers:
                first, end = self._part(reader, length)
                texts = self._pair(source, target)
                matrix_TT[first:end, first:end] = replacement(reader.text, *texts, end - first)
            self._known[key] = matrix_TT
        found = self._known[key]
        assert isinstance(found, Tensor)
        return found

    def refinement(self, source: int, target: int, length: int) -> Refined:
        """Source places and whether there are any, (T,) each."""
        key = ("refinement", source, target, length)
        if key not in self._known:
            source_T, found_T = torch.arange(length), torch.ones(length, dtype=torch.bool)
            for reader in self.readers:
                first, end = self._part(reader, length)
                one = refinement(reader.text, *self._pair(source, target), end - first)
                source_T[first:end], found_T[first:end] = one.source_T + first, one.found_T
            self._known[key] = Refined(source_T, found_T)
        found = self._known[key]
        assert isinstance(found, Refined)
        return found

    def _pair(self, source: int, target: int) -> tuple[Readable, Readable]:
        check_prompt("source", source, len(self.prompts))
        check_prompt("target", target, len(self.prompts))
        return self.prompts[source], self.prompts[target]

    def _part(self, reader: Reader, length: int) -> tuple[int, int]:
        end = length if reader.tokens is None else reader.first + reader.tokens
        return reader.first, min(end, length)

    def per_token(
        self, prompt: int, values: Mapping[str, float], length: int, other: float = 1.0
    ) -> Tensor:
        """A number for each token (T,): that of its word, or `other`."""
        numbers_T = torch.full((length,), other)
        for word, value in values.items():
            numbers_T[list(self.span(prompt, word))] = value
        return numbers_T


def check_prompts(prompts: Sequence[Readable]) -> tuple[Readable, ...]:
    if isinstance(prompts, str):
        raise ArgumentError(f"Got prompts={prompts!r}, expected a list of prompts: [prompt].")
    return tuple(prompts)
