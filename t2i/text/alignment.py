"""Token-level alignment of a source and a target prompt.

T text tokens of a row, special tokens and padding included.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.encoder_interface import TextEncoder
from t2i.text.prompt import WeightedText
from t2i.text.token_windows import EncoderInput, TokenWindow, build_token_window
from t2i.text.word_spans import find_token_spans_of_character_ranges

WORD = re.compile(r"[\w'-]+")
MATCH, MISMATCH, GAP = 1, -1, 0
"""Scores of the global alignment (Hertz et al. 2022, arXiv 2208.01626, "prompt refinement")."""


class TargetToSourceMapping(NamedTuple):
    """Mapping from the tokens of a target prompt to those of a source prompt: source position of
    each target token, and a mask of the tokens that have one.
    """

    source_T: Tensor
    found_T: Tensor


def build_replacement_matrix(
    text: TextEncoder | PreTrainedTokenizerBase,
    source: EncoderInput,
    target: EncoderInput,
    length: int,
) -> Tensor:
    """Return the (T, T) matrix M of prompt-to-prompt's word swap: P M is the source prompt's
    attention map P, carried over to the target prompt's tokens.

    As prompt-to-prompt's word swap (Hertz et al. 2022, arXiv 2208.01626): the prompts have as many
    words; the tokens of a word share what those of the other have; behind the last changed word
    token j comes from token j. Raises ArgumentError where the numbers of words differ.
    """
    changed = find_differing_word_indices(source, target)
    blocks = list(
        zip(
            find_token_spans_of_word_indices(text, source, changed),
            find_token_spans_of_word_indices(text, target, changed),
            strict=True,
        )
    )
    matrix_TT = torch.zeros(length, length, dtype=torch.float64)
    i = j = 0
    while i < length and j < length:
        if not blocks:
            matrix_TT[j, j] = 1
            i, j = i + 1, j + 1
        elif i == blocks[0][0][0]:
            old, new = blocks.pop(0)
            if len(old) == len(new):
                matrix_TT[old, new] = 1
            else:
                matrix_TT[torch.tensor(old)[:, None], torch.tensor(new)[None]] = 1 / len(new)
            i, j = i + len(old), j + len(new)
        else:
            matrix_TT[i, j] = 1
            i, j = i + 1, j + 1
    return matrix_TT


def find_differing_word_indices(source: EncoderInput, target: EncoderInput) -> list[int]:
    """Return the indices of the words that differ between two prompts. Raises ArgumentError if the
    prompts have different numbers of words.
    """
    source_words, target_words = (
        split_into_lowercase_words(source),
        split_into_lowercase_words(target),
    )
    if len(source_words) != len(target_words):
        raise ArgumentError(
            f"Replace swaps words one for one, but {join_text_without_weights(source)!r} has "
            f"{plural(len(source_words), 'word')} and {join_text_without_weights(target)!r} has "
            f"{len(target_words)}. Use Refine, which aligns prompts of other lengths."
        )
    pairs = zip(source_words, target_words, strict=True)
    return [number for number, (old, new) in enumerate(pairs) if old != new]


def build_refinement_mapping(
    text: TextEncoder | PreTrainedTokenizerBase,
    source: EncoderInput,
    target: EncoderInput,
    length: int,
) -> TargetToSourceMapping:
    """Map each target token to its source token by global alignment of the two prompts.

    Prompt-to-prompt's refinement (Hertz et al. 2022): a token without a partner is unmatched;
    padding maps to the same position.
    """
    window = get_or_build_token_window(text)
    source_ids, source_places = list_unpadded_token_ids_and_positions(window, source)
    target_ids, target_places = list_unpadded_token_ids_and_positions(window, target)
    source_T, found_T = torch.arange(length), torch.ones(length, dtype=torch.bool)
    for number, partner in enumerate(align_tokens(source_ids, target_ids)):
        place = target_places[number]
        found_T[place] = partner is not None
        source_T[place] = place if partner is None else source_places[partner]
    return TargetToSourceMapping(source_T, found_T)


def align_tokens(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """Align two lists of token ids globally (Needleman-Wunsch); return for each target token the
    index of its source token, or None.

    Of alignments that score the same, a gap in the source comes before one in the target, and that
    before a pair.
    """
    rows, columns = len(source) + 1, len(target) + 1
    score = [[0] * columns for _ in range(rows)]
    step = [["left"] * columns for _ in range(rows)]
    for i in range(1, rows):
        score[i][0], step[i][0] = i * GAP, "up"
    for j in range(1, columns):
        score[0][j] = j * GAP
    for i in range(1, rows):
        for j in range(1, columns):
            same = source[i - 1] == target[j - 1]
            choices = {
                "left": score[i][j - 1] + GAP,
                "up": score[i - 1][j] + GAP,
                "pair": score[i - 1][j - 1] + (MATCH if same else MISMATCH),
            }
            step[i][j] = max(choices, key=lambda way: choices[way])
            score[i][j] = choices[step[i][j]]

    partners: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i > 0 or j > 0:
        if step[i][j] == "pair":
            i, j = i - 1, j - 1
            partners[j] = i
        elif step[i][j] == "left":
            j -= 1
        else:
            i -= 1
    return partners


def list_unpadded_token_ids_and_positions(
    window: TokenWindow, prompt: EncoderInput
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt without padding, and their positions along T."""
    ids: list[int] = []
    places: list[int] = []
    for number, chunk in enumerate(window.tokenize_into_chunks(prompt)):
        count = window.count_unpadded_tokens(chunk)
        ids += window.build_token_ids(chunk)[:count]
        places += range(number * window.size, number * window.size + count)
    return ids, places


def split_into_lowercase_words(prompt: EncoderInput) -> list[str]:
    """Return the prompt's words in lower case, in order."""
    return [word.lower() for word in WORD.findall(join_text_without_weights(prompt))]


def find_token_spans_of_word_indices(
    text: TextEncoder | PreTrainedTokenizerBase, prompt: EncoderInput, numbers: Sequence[int]
) -> list[tuple[int, ...]]:
    """Return the token positions of some words of a prompt, given the words' indices in it."""
    texts = prompt.section_texts if isinstance(prompt, WeightedText) else (prompt,)
    spans = [
        span
        for section, own in enumerate(texts)
        for span in find_token_spans_of_character_ranges(
            text, prompt, [match.span() for match in WORD.finditer(own)], section=section
        )
    ]
    return [spans[number] for number in numbers]


def join_text_without_weights(prompt: EncoderInput) -> str:
    """Return a prompt as plain text: a string as it is, the sections of a weighted text joined."""
    return " ".join(prompt.section_texts) if isinstance(prompt, WeightedText) else prompt


def get_or_build_token_window(text: TextEncoder | PreTrainedTokenizerBase) -> TokenWindow:
    """Return the token window (size, special tokens, padding) of a text encoder, or build that of a
    tokenizer alone.
    """
    return text.token_window if isinstance(text, TextEncoder) else build_token_window(text)
