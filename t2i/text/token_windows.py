"""Tokens of a prompt divided into the windows of a text encoder.

A window holds `prefix + room tokens + suffix`; a text that needs more is divided into chunks, one
window each.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.prompt import Segment, WeightedText

MAX_WINDOW_TOKENS = 512
"""Tokens, where neither the tokenizer nor the model has a limit, or a larger one."""
MAX_TOKENS_AFTER_COMMA = 20
"""Tokens from the end of a chunk within which a comma is a better place for the cut (A1111)."""
MAX_WORD_LETTERS = 40
"""Letters in a row beyond which a text is taken to be written without spaces."""

EncoderInput: TypeAlias = str | WeightedText
"""What an encoder reads: a string is literal text."""


class Token(NamedTuple):
    """Token of a prompt: its id, its range of characters in the text, and its weight."""

    id: int
    start: int
    end: int
    """`start` and `end` are positions in the text of the token's section."""
    weight: float


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens of a prompt that fill one window of the text encoder, with the number of the prompt's
    section (divided by BREAK) that they are from.
    """

    section: int
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """Window of a text encoder: its size in tokens, special tokens and padding."""

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    size: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int

    @property
    def capacity(self) -> int:
        """Number of tokens of a text that fit into a window beside the special tokens."""
        return self.size - len(self.prefix) - len(self.suffix)

    def tokenize_into_chunks(self, prompt: EncoderInput) -> list[TokenChunk]:
        """Tokenize a prompt and return its chunks, one window each, at least one per section."""
        sections = (
            prompt.sections if isinstance(prompt, WeightedText) else ((Segment(prompt, 1.0),),)
        )
        texts = ["".join(segment.text for segment in section) for section in sections]
        rows = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        chunks = []
        for number, section in enumerate(sections):
            ids, offsets = rows["input_ids"][number], rows["offset_mapping"][number]
            weights = compute_token_weights(section, texts[number], offsets)
            tokens = [
                Token(id, start, end, weight)
                for id, (start, end), weight in zip(ids, offsets, weights, strict=True)
            ]
            cuts = self.find_chunk_boundaries(texts[number], tokens)
            chunks += [
                TokenChunk(number, tuple(tokens[start:end]))
                for start, end in itertools.pairwise(cuts)
            ]
        return chunks

    def find_chunk_boundaries(self, text: str, tokens: Sequence[Token]) -> list[int]:
        """Divide the tokens of a text into chunks that fit a window; return the token indices at
        which chunks begin, and the end. A cut is after a comma near the chunk's end, else before a
        word.
        """
        cuts = [0]
        while len(tokens) - cuts[-1] > self.capacity:
            start, end = cuts[-1], cuts[-1] + self.capacity
            reach = range(end - 1, max(start, end - 1 - MAX_TOKENS_AFTER_COMMA), -1)
            commas = (i + 1 for i in reach if text[tokens[i].start : tokens[i].end].endswith(","))
            cut = next(commas, None) or find_first_token_of_word(text, tokens, end)
            cuts.append(cut if cut > start else end)
        return [*cuts, len(tokens)]

    def build_token_ids(self, chunk: TokenChunk) -> list[int]:
        """Return the token ids of a chunk's window, special tokens and padding included."""
        ids = [*self.prefix, *(token.id for token in chunk.tokens), *self.suffix]
        return ids + [self.pad] * (self.size - len(ids))

    def build_token_weights(self, chunk: TokenChunk) -> list[float]:
        """Return a weight for each token of a chunk's window; 1 for special tokens and padding."""
        weights = [1.0] * len(self.prefix) + [token.weight for token in chunk.tokens]
        return weights + [1.0] * (self.size - len(weights))

    def count_unpadded_tokens(self, chunk: TokenChunk) -> int:
        """Return the number of tokens in a chunk's window without padding, special tokens
        included.
        """
        return len(self.prefix) + len(chunk.tokens) + len(self.suffix)


def build_token_window(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig | None = None,
    size: int | None = None,
    begin: bool = False,
) -> TokenWindow:
    """Return the token window of a tokenizer: `size` tokens, or as many as tokenizer and model
    allow.

    With `begin` a text starts with BOS or EOS where the tokenizer itself adds nothing.
    """
    if not tokenizer.is_fast:
        raise ArgumentError(
            f"{type(tokenizer).__name__} cannot say which letters a token stands for: use the "
            "tokenizer that AutoTokenizer loads from a tokenizer.json."
        )
    # A tokenizer saved without model_max_length reports 1e30; T5 knows no last position.
    positions = getattr(config, "max_position_embeddings", None)
    limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    prefix, suffix = find_prefix_and_suffix_ids(tokenizer)
    pad = tokenizer.pad_token_id
    if begin and not prefix and not suffix:
        first = [
            id for id in (tokenizer.bos_token_id, tokenizer.eos_token_id, pad) if id is not None
        ]
        if not first:
            raise ArgumentError(
                "The tokenizer has no BOS, EOS or padding token for a text to begin with: set "
                "tokenizer.bos_token."
            )
        prefix = (int(first[0]),)
    size = int(min(limit, MAX_WINDOW_TOKENS)) if size is None else size
    if pad is None:  # masked, so that any token will do
        pad = (*prefix, *suffix, 0)[0]
    window = TokenWindow(tokenizer, size, prefix, suffix, pad)
    if window.capacity < 1 or window.size > limit:
        least = len(prefix) + len(suffix) + 1
        raise ArgumentError(
            f"Got a window of {window.size} tokens: this model reads from {least} to {limit}."
        )
    return window


def find_prefix_and_suffix_ids(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the token ids that the tokenizer puts before and after a text."""
    inner = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    starts = range(len(whole) - len(inner) + 1)
    start = next(i for i in starts if whole[i : i + len(inner)] == inner)
    return tuple(whole[:start]), tuple(whole[start + len(inner) :])


def compute_token_weights(
    section: Sequence[Segment], text: str, offsets: Sequence[tuple[int, int]]
) -> list[float]:
    """Return one word weight per token of a prompt's section; a token that lies in two segments
    gets the mean of their weights.
    """
    if len({segment.weight for segment in section}) < 2:
        return [section[0].weight if section else 1.0] * len(offsets)
    letters = [segment.weight for segment in section for _ in segment.text]
    weights = []
    for start, end in offsets:
        token = text[start:end]
        start += len(token) - len(token.lstrip())  # the space before a word is part of its token
        own = letters[start:end] or letters[start - 1 : start] or [1.0]
        weights.append(own[0] if len(set(own)) == 1 else sum(own) / len(own))
    return weights


def find_first_token_of_word(text: str, tokens: Sequence[Token], index: int) -> int:
    """Return the index of the first token of the word that token `index` belongs to."""
    start = index
    while start > 0 and continues_word(text, tokens[start - 1], tokens[start]):
        start -= 1
    long = tokens[index].start - tokens[start].start > MAX_WORD_LETTERS
    return index if long else start


def continues_word(text: str, before: Token, token: Token) -> bool:
    """Return True if a token continues the word of the token before it in the text."""
    if token.start > before.end or token.start == 0:
        return False
    # One letter of several bytes may be several tokens.
    joint = text[token.start - 1 : token.start + 1]
    return token.start < before.end or (len(joint) == 2 and joint.isalnum())
