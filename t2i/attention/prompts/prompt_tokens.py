"""The tokens of a run's prompts as cross-attention sees them: words and their key positions.

T text tokens among the keys.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.attention.denoiser_pass import check_prompt_index
from t2i.errors import ArgumentError
from t2i.text.alignment import (
    TargetToSourceMapping,
    build_refinement_mapping,
    build_replacement_matrix,
)
from t2i.text.encoder_interface import TextEncoder
from t2i.text.learned_words import find_continuation_insertions
from t2i.text.token_windows import EncoderInput
from t2i.text.word_mentions import WordMention, find_mentioned_tokens
from t2i.text.word_spans import Span, find_word_token_positions

Word = str | Span
"""A word or phrase of the prompt, or token positions along T."""
Words = str | tuple[str, ...]
"""One word of a prompt, or several."""
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """Tokenizer of prompts, and the range of the denoiser's text tokens (axis T) that its tokens
    fill.

    first_position : position along T of its first token
    max_tokens : number of tokens that it fills; None for all from `first_position` on
    preprocess : the pipeline's change of a text before it is tokenized
    """

    tokenizer: TextEncoder | PreTrainedTokenizerBase
    first_position: int = 0
    max_tokens: int | None = None
    preprocess: Callable[[str], str] | None = None

    def preprocess_prompt(self, prompt: EncoderInput) -> EncoderInput:
        """Return the prompt's text as the pipeline changes it before tokenizing."""
        if self.preprocess is None:
            return prompt
        if isinstance(prompt, str):
            return self.preprocess(prompt)
        text = self.tokenizer
        tokenizer = text.token_window.tokenizer if isinstance(text, TextEncoder) else text
        return prompt.copy_with_insertions(
            partial(find_continuation_insertions, tokenizer=tokenizer)
        )

    def find_word_token_positions(self, prompt: EncoderInput, word: str) -> Span:
        """Return the positions of a word's tokens along T; of a learned word, those of all its
        tokens.

        Raises ArgumentError for a word that the prompt does not contain.
        """

        def find(prompt: EncoderInput, text: str) -> Span:
            return find_word_token_positions(self.tokenizer, prompt, [text])[text]

        return self._place(find, prompt, word)

    def find_occurrence_token_positions(self, prompt: EncoderInput, mention: WordMention) -> Span:
        """Return the positions along T of one occurrence of a word; see find_mentioned_tokens."""

        def find(prompt: EncoderInput, text: str) -> Span:
            return find_mentioned_tokens(self.tokenizer, prompt, mention._replace(word=text))

        return self._place(find, prompt, mention.word)

    def _place(
        self, find: Callable[[EncoderInput, str], Span], prompt: EncoderInput, word: str
    ) -> Span:
        """Return the positions along T of a word that `find` looks up in the preprocessed prompt;
        errors name the word as it was given.
        """
        text = word if self.preprocess is None else self.preprocess(word)
        try:
            positions = find(self.preprocess_prompt(prompt), text)
        except ArgumentError as error:
            raise ArgumentError(str(error).replace(repr(text), repr(word))) from None
        most = self.max_tokens
        return tuple(self.first_position + p for p in positions if most is None or p < most)

    def find_text_slice(self, length: int) -> slice:
        """Return the slice of the denoiser's `length` text tokens that the tokens of this tokenizer
        fill.
        """
        end = length if self.max_tokens is None else self.first_position + self.max_tokens
        return slice(self.first_position, min(end, length))


@dataclass(frozen=True, slots=True)
class RequestedWords:
    """Words that the probes and edits of a run ask for, as (number of the prompt, word), and
    whether the prompts contain them.

    present : words that the prompt contains at some step of the run
    absent : for words that it lacked at some step, the error of that step
    """

    present: set[tuple[int, str]] = field(default_factory=set)
    absent: dict[tuple[int, str], ArgumentError] = field(default_factory=dict)

    def check_all_found(self) -> None:
        """Raise ArgumentError for a word that the prompt contained at no step of the run."""
        for mention, error in self.absent.items():
            if mention not in self.present:
                raise error


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Prompts of a run as tokenized at some of its steps, with the positions of their words.

    requested_words : shared by all steps of a run
    num_unknown : number of prompts if their texts are not known
    """

    prompts: tuple[EncoderInput, ...]
    tokenizers: tuple[PromptTokenizer, ...]
    requested_words: RequestedWords = field(
        default_factory=RequestedWords, repr=False, compare=False
    )
    num_unknown: int = 0
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_prompts(self) -> int:
        """Return the number of prompts of the run."""
        return len(self.prompts) or self.num_unknown

    def find_word_token_positions(self, prompt: int, word: Word) -> Span:
        """Return the token positions of a word along T; a word given as positions is returned as
        it is.

        Raises ArgumentError for a word that the prompt does not contain. A prompt in a grammar may
        contain it at other steps only: the span is empty then, and the session raises at the end of
        the run if no step contained the word.
        """
        if not isinstance(word, str):
            return as_position_tuple(word)
        return self.get_or_compute(
            ("span", prompt, word),
            lambda: self._find(
                prompt, word, lambda one, text: one.find_word_token_positions(text, word)
            ),
        )

    def find_occurrence_token_positions(self, prompt: int, text: str) -> Span:
        """Return the token positions along T of one occurrence of a word, "dog" or "dog#2".

        Raises ArgumentError as `find_word_token_positions` does, and for one of several without a
        number.
        """
        mention = WordMention.parse(text)
        return self.get_or_compute(
            ("mention", prompt, text),
            lambda: self._find(
                prompt, text, lambda one, own: one.find_occurrence_token_positions(own, mention)
            ),
        )

    def _find(
        self, prompt: int, word: str, find: Callable[[PromptTokenizer, EncoderInput], Span]
    ) -> Span:
        if not self.tokenizers:
            raise ArgumentError(
                f"Cannot look for {word!r}: this model came without a tokenizer. Give one, "
                "attend(model, prompts=..., tokenizer=...), or the token positions of the word, "
                "(3, 4)."
            )
        if not self.prompts:
            raise ArgumentError(
                f"Cannot look for {word!r}: the prompts are not known. Give them, "
                "attend(pipe, prompts=[...]), one for each of the call."
            )
        check_prompt_index("prompt", prompt, len(self.prompts))
        text = self.prompts[prompt]
        try:
            positions = tuple(p for one in self.tokenizers for p in find(one, text))
            if not positions:
                raise ArgumentError(
                    f"{word!r} comes after the tokens that this model reads of prompt {prompt}: "
                    "shorten the prompt before it."
                )
        except ArgumentError as error:
            if isinstance(text, str):
                if len(self.prompts) == 1:
                    raise
                raise ArgumentError(f"{error} (Prompt {prompt}: {text!r:.80})") from error
            self.requested_words.absent[prompt, word] = error
            return ()
        self.requested_words.present.add((prompt, word))
        return positions

    def build_replacement_matrix(self, source: int, target: int, length: int) -> Tensor:
        """Return the (T, T) matrix of prompt-to-prompt's word swap, which carries attention from
        the source prompt's tokens to the target's; one block per tokenizer.
        """

        def make() -> Tensor:
            matrix_TT = torch.eye(length, dtype=torch.float64)
            for one in self.tokenizers:
                part = one.find_text_slice(length)
                texts = self._preprocessed_pair(source, target, one)
                matrix_TT[part, part] = build_replacement_matrix(
                    one.tokenizer, *texts, part.stop - part.start
                )
            return matrix_TT

        return self.get_or_compute(("replacement", source, target, length), make)

    def build_refinement_mapping(
        self, source: int, target: int, length: int
    ) -> TargetToSourceMapping:
        """Return the token mapping of prompt-to-prompt's refinement: for each token of the target
        prompt its position in the source prompt, and whether it has one, (T,) each.
        """

        def make() -> TargetToSourceMapping:
            source_T, found_T = torch.arange(length), torch.ones(length, dtype=torch.bool)
            for one in self.tokenizers:
                part = one.find_text_slice(length)
                texts = self._preprocessed_pair(source, target, one)
                aligned = build_refinement_mapping(one.tokenizer, *texts, part.stop - part.start)
                source_T[part], found_T[part] = aligned.source_T + part.start, aligned.found_T
            return TargetToSourceMapping(source_T, found_T)

        return self.get_or_compute(("refinement", source, target, length), make)

    def get_or_compute(
        self, key: Hashable, make: Callable[[], ResultT], moment: object = None
    ) -> ResultT:
        """Return the result of `make()`, cached under a key until `moment`, such as the step,
        changes.
        """
        entry = self._cache.get(key)
        if entry is None or entry[0] != moment:
            entry = self._cache[key] = (moment, make())
        value: ResultT = entry[1]
        return value

    def get_source_and_target_texts(
        self, source: int, target: int
    ) -> tuple[EncoderInput, EncoderInput]:
        """Return the texts of two of the prompts, a source and a target. Raises ArgumentError if
        the prompts are not known.
        """
        if not self.prompts:
            raise ArgumentError(
                "Cannot compare prompts that are not known: give them, "
                "attend(x, prompts=[...]), one for each of the call."
            )
        check_prompt_index("source", source, len(self.prompts))
        check_prompt_index("target", target, len(self.prompts))
        return self.prompts[source], self.prompts[target]

    def _preprocessed_pair(
        self, source: int, target: int, prompt_tokenizer: PromptTokenizer
    ) -> tuple[EncoderInput, EncoderInput]:
        if not self.prompts or not self.tokenizers:
            raise ArgumentError(
                "Cannot compare prompts that are not known, or without a tokenizer: give them, "
                "attend(x, prompts=[...]), one for each of the call, and of a model alone "
                "tokenizer=... too."
            )
        first, second = self.get_source_and_target_texts(source, target)
        preprocess = prompt_tokenizer.preprocess_prompt
        return preprocess(first), preprocess(second)

    def build_values_per_token(
        self, prompt: int, values: Mapping[str, float], length: int, default: float = 1.0
    ) -> Tensor:
        """Return a number for each text token of a prompt, (T,): the value given for its word, or
        the default.
        """
        values_T = torch.full((length,), default, dtype=torch.float64)
        for word, value in values.items():
            values_T[list(self.find_word_token_positions(prompt, word))] = value
        return values_T


def as_word_tuple(words: Words) -> tuple[str, ...]:
    """Return the words of a probe or an edit, given as one word or several, as a tuple."""
    return (words,) if isinstance(words, str) else tuple(words)


def as_prompt_tuple(prompts: Sequence[EncoderInput]) -> tuple[EncoderInput, ...]:
    """Return the prompts given to `attend` as a tuple; ArgumentError for other types."""
    if isinstance(prompts, str):
        raise ArgumentError(f"Got prompts={prompts!r}, expected a list of prompts: [prompt].")
    for prompt in prompts:
        if not isinstance(prompt, EncoderInput):
            raise ArgumentError(
                f"Got a {type(prompt).__name__} among the prompts, expected strings. Our pipelines "
                "pass a Prompt to the session themselves: leave prompts= out."
            )
    return tuple(prompts)


def as_position_tuple(word: object) -> Span:
    """Return token positions given in place of a word as a tuple; ArgumentError for anything
    else.
    """
    if (
        not isinstance(word, tuple | list)
        or not word
        or not all(isinstance(p, int) and not isinstance(p, bool) and p >= 0 for p in word)
    ):
        raise ArgumentError(
            f"Got {word!r} where a word is expected: a text such as 'cat', or its token positions, "
            "whole numbers from 0, such as (3, 4)."
        )
    return tuple(word)
