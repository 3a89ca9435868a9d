"""Textual inversion: words that a text encoder learns, everything else of it staying as it is.

Gal et al. (2022), arXiv 2208.01618. N new vectors, D their width.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.learned_words import add_tokens, is_single_token
from train.targets.trained_parts import Part


class Word(BaseModel):
    """One new word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str = Field(min_length=1)
    """As captions and prompts write it, such as "<my-mug>"."""
    vectors: int = Field(1, ge=1, le=64)
    """How many embeddings it becomes."""
    initial: str | None = None
    """Known words to start from, such as "mug"; noise of the table's spread when left out."""

    @field_validator("word")
    @classmethod
    def _is_one(cls, word: str) -> str:
        if word.split() != [word] or "," in word:
            raise ValueError("a new word has no blanks and no commas; write it as <my-mug>")
        return word

    @property
    def spelling(self) -> list[str]:
        """The tokens that stand for it, as diffusers names them: <mug>, <mug>_1, ..."""
        return [self.word, *(f"{self.word}_{number}" for number in range(1, self.vectors))]


class WordsPart(Part):
    """New words."""

    method: Literal["words"] = "words"
    words: tuple[Word, ...] = Field(min_length=1)
    weight_decay: float | None = Field(0.0, ge=0)
    """Of this part; `optimizer.weight_decay` when null."""

    @field_validator("words")
    @classmethod
    def _differ(cls, words: tuple[Word, ...]) -> tuple[Word, ...]:
        spelled = [token for word in words for token in word.spelling]
        if twice := {token for token in spelled if spelled.count(token) > 1}:
            raise ValueError(f"{min(twice)!r} is there twice; give each new word its own name")
        return words


class Table(nn.Module):
    """A text encoder's table of embeddings, which stays, and the rows of new words behind it."""

    def __init__(self, known: nn.Embedding, first: int, vectors_ND: Tensor) -> None:
        super().__init__()
        self.known, self.first = known, first
        self.vectors = nn.Parameter(vectors_ND)

    @property
    def weight(self) -> Tensor:
        """Of the known words, (V, D), which says of what type the model computes."""
        return self.known.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., D) of ids (...)."""
        is_new = ids >= self.first
        known = self.known(ids.masked_fill(is_new, 0))
        new = functional.embedding((ids - self.first).clamp(min=0), self.vectors)
        return torch.where(is_new[..., None], new.to(known.dtype), known)


def add_words(
    part: WordsPart, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, key: str
) -> list[nn.Parameter]:
    """Let the tokenizer know the words and the encoder learn them; the new vectors, (N, D).

    Raises ArgumentError for a word that the tokenizer knows already.
    """
    known = encoder.get_input_embeddings()
    if isinstance(known, Table):
        raise ArgumentError(f"{key}: another part has new words already; name them all in one.")
    tokens = [token for word in part.words for token in word.spelling]
    if old := [token for token in tokens if is_single_token(token, tokenizer)]:
        raise ArgumentError(
            f"{key}: the model knows {old[0]!r} already; choose a word that it does not, such as "
            f"'<{old[0].strip('<>')}-2>'."
        )
    assert isinstance(known, nn.Embedding)
    vectors = [first_vectors(word, tokenizer, known) for word in part.words]
    first = len(tokenizer)
    added = add_tokens(tokenizer, tokens)
    assert added == len(tokens)
    table = Table(known, first, torch.cat(vectors))
    encoder.set_input_embeddings(table)
    return [table.vectors]


def first_vectors(word: Word, tokenizer: PreTrainedTokenizerBase, known: nn.Embedding) -> Tensor:
    """What a new word starts as, (vectors, D): those of its `initial`, over and over."""
    rows_VD = known.weight.detach().float()
    if word.initial is None:
        noise = torch.randn(word.vectors, rows_VD.shape[1])
        return rows_VD.mean(0) + noise * rows_VD.std(0)
    ids = tokenizer(word.initial, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ArgumentError(f"The initial words {word.initial!r} of {word.word!r} are no tokens.")
    return rows_VD[[ids[number % len(ids)] for number in range(word.vectors)]].clone()
