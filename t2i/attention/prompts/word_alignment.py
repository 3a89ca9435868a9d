"""Alignment of the words of a source and a target prompt in a run: corrected by hand, and read.

T text tokens among the keys.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.text.alignment import find_token_spans_of_word_indices, split_into_lowercase_words


class TokenAlignment(NamedTuple):
    """Alignment of the tokens of a target prompt with those of a source prompt.

    columns_TT : P M is the source prompt's attention map P, carried over to the target's tokens
    found_T : 1 for the tokens of the target that come from the source, 0 for new ones
    """

    columns_TT: Tensor
    found_T: Tensor


class WordOrigins(NamedTuple):
    """Words of two prompts, and for each word of the target the index of the source's word that it
    comes from; None for a new word.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    origins: tuple[int | None, ...]


def apply_alignment_corrections(
    alignment: TokenAlignment,
    prompt_tokens: PromptTokens,
    source: int,
    target: int,
    corrections: Mapping[str, str | None],
) -> TokenAlignment:
    """Return an alignment of two prompts' tokens with the user's corrections applied: words of the
    target prompt mapped to words of the source prompt, or to none.

    Words of different numbers of tokens share their maps, as in the word swap. A correction is left
    out where one of its words is not in its prompt at this step.
    """
    columns_TT, found_T = alignment.columns_TT.clone(), alignment.found_T.clone()
    for word, origin in corrections.items():
        new = prompt_tokens.find_occurrence_token_positions(target, word)
        old = (
            () if origin is None else prompt_tokens.find_occurrence_token_positions(source, origin)
        )
        if not new or (origin is not None and not old):
            continue
        for one in prompt_tokens.tokenizers:
            part = one.find_text_slice(len(found_T))
            own_new, own_old = (
                torch.tensor([p for p in span if part.start <= p < part.stop], dtype=torch.long)
                for span in (new, old)
            )
            columns_TT[:, own_new] = 0
            found_T[own_new] = float(len(own_old) > 0)
            if len(own_old) == len(own_new):
                columns_TT[own_old, own_new] = 1
            elif len(own_new):
                columns_TT[own_old[:, None], own_new[None]] = 1 / len(own_new)
    return TokenAlignment(columns_TT, found_T)


def convert_token_to_word_alignment(
    alignment: TokenAlignment, prompt_tokens: PromptTokens, source: int, target: int
) -> WordOrigins:
    """Convert a token alignment of two prompts to a word alignment: each target word comes from the
    source word with the largest part of its attention map.
    """
    tokenizer = prompt_tokens.tokenizers[0]
    words, spans = [], []
    for number in (source, target):
        prompt = tokenizer.preprocess_prompt(prompt_tokens.prompts[number])
        words.append(tuple(split_into_lowercase_words(prompt)))
        found = find_token_spans_of_word_indices(tokenizer.tokenizer, prompt, range(len(words[-1])))
        first, length = tokenizer.first_position, len(alignment.found_T)
        spans.append([[first + p for p in span if first + p < length] for span in found])
    origins: list[int | None] = []
    for new in spans[1]:
        shares = [float(alignment.columns_TT[old][:, new].sum()) for old in spans[0]]
        known = bool(alignment.found_T[new].any()) and max(shares, default=0.0) > 0
        origins.append(shares.index(max(shares)) if known else None)
    return WordOrigins(words[0], words[1], tuple(origins))
