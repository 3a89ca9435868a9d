"""Which token of one prompt corresponds to which of another: closed forms, and what must hold."""

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i.errors import ArgumentError
from t2i.text.alignment import (
    align_tokens,
    build_refinement_mapping,
    build_replacement_matrix,
    find_differing_word_indices,
)
from t2i.text.encoders.selection import select_text_encoder
from t2i.text.prompt import Prompt
from tests.tiny import WINDOW, WORDS, tiny_text_encoder, tiny_tokenizer

T = WINDOW


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def said(text):
    """As a run says it: a Prompt at its first step."""
    return Prompt(text).texts_at_step(0, 10)[0][0]


# replacement


def test_words_of_one_token_stay_in_their_places(tokenizer):
    matrix_TT = build_replacement_matrix(tokenizer, "a red cat", "a blue dog", T)
    assert torch.equal(matrix_TT, torch.eye(T, dtype=torch.float64))


def test_a_word_of_more_tokens_shares_what_the_other_has(tokenizer):
    # <s> a red apple cat </s>  ->  <s> a red z e b cat </s>
    matrix_TT = build_replacement_matrix(tokenizer, "a red apple cat", "a red zeb cat", T)
    expected = torch.zeros(T, T, dtype=torch.float64)
    expected[[0, 1, 2], [0, 1, 2]] = 1
    expected[3, [3, 4, 5]] = 1 / 3
    for token in range(6, T):  # behind the last change a token comes from its own place
        expected[token, token] = 1
    assert torch.equal(matrix_TT, expected)


def test_a_word_of_fewer_tokens_takes_what_all_of_the_others_have(tokenizer):
    matrix_TT = build_replacement_matrix(tokenizer, "a zeb cat", "a red cat", T)
    expected = torch.zeros(T, T, dtype=torch.float64)
    expected[[0, 1], [0, 1]] = 1
    expected[[2, 3, 4], 2] = 1
    for token in range(3, T - 2):
        expected[token, token] = 1
    assert torch.equal(matrix_TT, expected)


def test_between_two_changes_tokens_move_along(tokenizer):
    # <s> red to cat the  ->  <s> zeb to dog the: "to" moves from 2 to 4, "cat" from 3 to 5
    matrix_TT = build_replacement_matrix(tokenizer, "red to cat the", "zeb to dog the", T)
    assert matrix_TT[2, 4] == 1
    assert matrix_TT[3, 5] == 1
    assert matrix_TT[1, [1, 2, 3]].tolist() == [1 / 3] * 3
    assert matrix_TT[6, 6] == 1


def test_words_of_as_many_tokens_come_one_from_one(tokenizer):
    matrix_TT = build_replacement_matrix(tokenizer, "a zeb cat", "a mno cat", T)
    assert torch.equal(matrix_TT, torch.eye(T, dtype=torch.float64))


def test_commas_case_and_weights_are_no_words(tokenizer):
    plain = build_replacement_matrix(tokenizer, "a red, apple", "a zeb, apple", T)
    assert plain[2, [2, 3, 4]].tolist() == [1 / 3] * 3
    assert find_differing_word_indices("A Red cat", "a red, dog") == [2]
    weighed = build_replacement_matrix(
        tokenizer, said("a (red:1.3), apple"), said("a zeb, apple"), T
    )
    assert torch.equal(weighed, plain)


def test_the_second_of_equal_words_is_told_apart(tokenizer):
    matrix_TT = build_replacement_matrix(tokenizer, "red cat red dog", "red cat zeb dog", T)
    assert matrix_TT[1, 1] == 1
    assert matrix_TT[3, [3, 4, 5]].tolist() == [1 / 3] * 3


def test_replacement_wants_as_many_words(tokenizer):
    with pytest.raises(ArgumentError, match=r"'a red cat' has 3 words and 'a cat' has 2. Use Ref"):
        build_replacement_matrix(tokenizer, "a red cat", "a cat", T)


def test_an_encoder_reads_as_its_tokenizer(tokenizer):
    encoder = select_text_encoder(tokenizer, tiny_text_encoder(tokenizer))
    pair = ("a red apple", "a zeb apple")
    assert torch.equal(
        build_replacement_matrix(encoder, *pair, T), build_replacement_matrix(tokenizer, *pair, T)
    )
    assert torch.equal(
        build_refinement_mapping(encoder, *pair, T)[0],
        build_refinement_mapping(tokenizer, *pair, T)[0],
    )


one_token = st.sampled_from(WORDS)
any_word = st.one_of(one_token, st.text("abc", min_size=1, max_size=3))


@settings(deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(one_token, one_token), min_size=1, max_size=8))
def test_columns_sum_to_one_where_words_have_as_many_tokens(pairs):
    source, target = (" ".join(words) for words in zip(*pairs, strict=True))
    matrix_TT = build_replacement_matrix(tokenizer_once(), source, target, T)
    assert torch.allclose(matrix_TT.sum(dim=0), torch.ones(T, dtype=torch.float64))
    assert torch.allclose(matrix_TT.sum(dim=1), torch.ones(T, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(any_word, any_word), min_size=1, max_size=4))
def test_nothing_is_taken_twice(pairs):
    """A row gives away its all at most once; only words of more tokens give a column more."""
    source, target = (" ".join(words) for words in zip(*pairs, strict=True))
    matrix_TT = build_replacement_matrix(tokenizer_once(), source, target, T)
    assert (matrix_TT >= 0).all()
    assert (matrix_TT.sum(dim=1) < 2 + 1e-9).all()
    assert matrix_TT[0].tolist() == [1] + [0] * (T - 1)
    longest = max(len(word) for pair in pairs for word in pair)
    assert (matrix_TT.sum(dim=0) < longest + 1 + 1e-9).all()


@cache
def tokenizer_once():
    return tiny_tokenizer()


# refinement


def test_added_words_have_no_partner_and_the_others_move(tokenizer):
    # <s> a cat </s>  ->  <s> a red cat </s>
    source_T, found_T = build_refinement_mapping(tokenizer, "a cat", "a red cat", T)
    assert source_T[:5].tolist() == [0, 1, 2, 2, 3]
    assert found_T[:5].tolist() == [True, True, False, True, True]
    assert source_T[5:].tolist() == list(range(5, T))
    assert found_T[5:].all()


def test_left_out_words_are_passed_over(tokenizer):
    source_T, found_T = build_refinement_mapping(tokenizer, "a red cat", "a cat", T)
    assert source_T[:4].tolist() == [0, 1, 3, 4]
    assert found_T.all()


def test_swapped_words_have_no_partner(tokenizer):
    source_T, found_T = build_refinement_mapping(tokenizer, "a red cat", "a red dog", T)
    assert found_T.tolist() == [True, True, True, False] + [True] * (T - 4)
    assert source_T[4] == 4


def test_equal_prompts_are_the_identity(tokenizer):
    source_T, found_T = build_refinement_mapping(tokenizer, "a red cat", "a red cat", T)
    assert source_T.tolist() == list(range(T))
    assert found_T.all()


def test_prompts_of_several_chunks_are_aligned_across_them(tokenizer):
    long = " ".join(["red apple"] * 8)  # 16 tokens, of which 14 fit into a chunk
    source_T, found_T = build_refinement_mapping(tokenizer, long + " cat", long + " dog cat", 2 * T)
    lost = [place for place in range(2 * T) if not found_T[place]]
    assert len(lost) == 1
    assert source_T[lost[0] + 1] == lost[0]
    assert source_T[:T].tolist() == list(range(T))


ids = st.lists(st.integers(0, 4), max_size=9)


@settings(deadline=None, max_examples=150)
@given(source=ids, target=ids)
def test_an_alignment_is_the_longest_that_keeps_the_order(source, target):
    partners = align_tokens(source, target)
    pairs = [(i, j) for j, i in enumerate(partners) if i is not None]
    assert len(partners) == len(target)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(pairs))
    assert all(source[i] == target[j] for i, j in pairs)  # a mismatch costs more than two gaps
    assert len(pairs) == longest(tuple(source), tuple(target))


@cache
def longest(source, target):
    """The length of the longest common subsequence, by its definition."""
    if not source or not target:
        return 0
    if source[0] == target[0]:
        return 1 + longest(source[1:], target[1:])
    return max(longest(source[1:], target), longest(source, target[1:]))


@settings(deadline=None, max_examples=40)
@given(words=st.lists(one_token, min_size=1, max_size=8), place=st.integers(0, 8))
def test_one_word_more_is_the_only_one_without_a_partner(words, place):
    more = [*words]
    more.insert(min(place, len(words)), "picture")
    if "picture" in words:
        return
    _, found_T = build_refinement_mapping(tokenizer_once(), " ".join(words), " ".join(more), T)
    assert (~found_T).sum() == 1
    assert not found_T[min(place, len(words)) + 1]
