"""Method "words" of a fine-tune: textual inversion, new words that a text encoder learns.

Gal et al. (2022), arXiv 2208.01618. N new vectors, D their width.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.learned_words import add_words_to_tokenizer, is_known_to_tokenizer
from train.targets.parts.full_weights import FineTunePartConfig


class NewWordConfig(BaseModel):
    """Configuration of one new word that textual inversion learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str = Field(min_length=1)
    """Spelling in captions and prompts, such as "<my-mug>"."""
    vectors: int = Field(1, ge=1, le=64)
    """Number of embeddings that the word expands to."""
    initial: str | None = None
    """Known words to start from, such as "mug"; noise with the table's statistics if left out."""

    @field_validator("word")
    @classmethod
    def _refuse_blanks(cls, word: str) -> str:
        if word.split() != [word] or "," in word:
            raise ValueError("a new word has no blanks and no commas; write it as <my-mug>")
        return word

    @property
    def placeholder_tokens(self) -> list[str]:
        """Placeholder tokens of the word, as diffusers names them: <mug>, <mug>_1, ..."""
        return [self.word, *(f"{self.word}_{number}" for number in range(1, self.vectors))]


class NewWordsPartConfig(FineTunePartConfig):
    """Configuration of a fine-tune's part that learns new words (textual inversion), in every
    text encoder.
    """

    method: Literal["words"] = "words"
    words: tuple[NewWordConfig, ...] = Field(min_length=1)
    weight_decay: float | None = Field(0.0, ge=0)
    """Weight decay of this part; `optimizer.weight_decay` when null."""

    @field_validator("words")
    @classmethod
    def _refuse_duplicates(cls, words: tuple[NewWordConfig, ...]) -> tuple[NewWordConfig, ...]:
        spelled = [token for word in words for token in word.placeholder_tokens]
        if twice := {token for token in spelled if spelled.count(token) > 1}:
            raise ValueError(f"{min(twice)!r} appears twice; give each new word its own name")
        return words


class ExtendedEmbedding(nn.Module):
    """A text encoder's frozen embedding table, extended by trainable rows for the new words."""

    def __init__(self, known: nn.Embedding, first: int, vectors_ND: Tensor) -> None:
        super().__init__()
        self.known, self.first = known, first
        self.vectors = nn.Parameter(vectors_ND)

    @property
    def weight(self) -> Tensor:
        """Embedding table of the known words, (V, D); the model takes its dtype from it."""
        return self.known.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (..., D) of token ids (...), those of the new words from the
        trainable rows.
        """
        is_new = ids >= self.first
        known = self.known(ids.masked_fill(is_new, 0))
        new = functional.embedding((ids - self.first).clamp(min=0), self.vectors)
        return torch.where(is_new[..., None], new.to(known.dtype), known)


def register_new_words(
    part: NewWordsPartConfig, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, key: str
) -> list[nn.Parameter]:
    """Add new words to a tokenizer and its encoder in place; return their trainable vectors, (N,
    D).

    key : config key of the part, for messages

    Raises ArgumentError for a word that the tokenizer knows already.
    """
    known = encoder.get_input_embeddings()
    if isinstance(known, ExtendedEmbedding):
        raise ArgumentError(
            f"{key}: another part already has new words; name all of them in one part."
        )
    tokens = [token for word in part.words for token in word.placeholder_tokens]
    if old := [token for token in tokens if is_known_to_tokenizer(token, tokenizer)]:
        raise ArgumentError(
            f"{key}: the model knows {old[0]!r} already; choose a word that it does not, such as "
            f"'<{old[0].strip('<>')}-2>'."
        )
    assert isinstance(known, nn.Embedding)
    vectors = [build_initial_vectors(word, tokenizer, known) for word in part.words]
    first = len(tokenizer)
    added = add_words_to_tokenizer(tokenizer, tokens)
    assert added == len(tokens)
    table = ExtendedEmbedding(known, first, torch.cat(vectors))
    encoder.set_input_embeddings(table)
    return [table.vectors]


def build_initial_vectors(
    word: NewWordConfig, tokenizer: PreTrainedTokenizerBase, known: nn.Embedding
) -> Tensor:
    """Build the initial vectors of a new word, (vectors, D): those of the words in `initial`, or
    noise.
    """
    rows_VD = known.weight.detach().float()
    if word.initial is None:
        noise = torch.randn(word.vectors, rows_VD.shape[1])
        return rows_VD.mean(0) + noise * rows_VD.std(0)
    ids = tokenizer(word.initial, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ArgumentError(f"The initial words {word.initial!r} of {word.word!r} have no tokens.")
    return rows_VD[[ids[number % len(ids)] for number in range(word.vectors)]].clone()
