"""Words of a target that are aligned by hand with those of the source."""

import pytest
import torch

from t2i.attention import Refine, Replace
from t2i.attention.edits.base.word_edit import SourceMapEdit
from t2i.attention.prompts.prompt_tokens import PromptTokenizer, PromptTokens
from t2i.attention.prompts.word_alignment import TokenAlignment, convert_token_to_word_alignment
from t2i.errors import ArgumentError
from t2i.text.word_mentions import WordMention, find_mentioned_tokens, number_repeated_words
from tests.tiny import WINDOW, tiny_tokenizer

T = WINDOW


def tokens(*prompts: str) -> PromptTokens:
    return PromptTokens(prompts, (PromptTokenizer(tiny_tokenizer()),))


def align(edit: SourceMapEdit, *prompts: str) -> TokenAlignment:
    return edit.align_tokens(tokens(*prompts), T)


def test_a_word_comes_from_the_word_that_is_named() -> None:
    prompts = "red cat", "blue dog apple"
    automatic = align(Refine(), *prompts)
    columns_TT, found_T = align(Refine(alignment={"dog": "cat"}), *prompts)
    assert automatic.found_T[2] == 0
    assert found_T[2] == 1
    assert columns_TT[:, 2].nonzero().flatten().tolist() == [2]
    changed = (columns_TT != automatic.columns_TT).any(dim=0).nonzero().flatten()
    assert changed.tolist() == [2]


def test_a_new_word_keeps_its_own_map() -> None:
    columns_TT, found_T = align(Replace(alignment={"dog": None}), "red cat", "red dog")
    assert found_T.tolist() == [1.0, 1.0, 0.0, *[1.0] * (T - 3)]
    assert columns_TT[:, 2].sum() == 0


def test_words_of_other_numbers_of_tokens_share_their_maps_as_in_the_word_swap() -> None:
    swap = align(Replace(), "red cat", "red zeb")
    by_hand = align(Replace(alignment={"zeb": "cat"}), "red cat", "red zeb")
    assert torch.equal(swap.columns_TT[:, 2:5], by_hand.columns_TT[:, 2:5])
    refined = align(Refine(alignment={"zeb": "cat"}), "red cat", "red zeb")
    assert refined.columns_TT[2, 2:5].tolist() == pytest.approx([1 / 3] * 3)


def test_the_automatic_alignment_by_hand_changes_nothing() -> None:
    prompts = "red cat of the dog", "red apple of the dog"
    for kind in (Replace, Refine):
        automatic = kind()
        found = convert_token_to_word_alignment(align(automatic, *prompts), tokens(*prompts), 0, 1)
        by_hand = {
            word: None if origin is None else found.source[origin]
            for word, origin in zip(found.target, found.origins, strict=True)
        }
        again = align(kind(alignment=by_hand), *prompts)
        assert all(map(torch.equal, again, align(automatic, *prompts)))


def test_one_of_several_words_is_named_by_its_number() -> None:
    prompts = "red cat red dog", "red apple red dog"
    columns_TT, _ = align(Replace(alignment={"red#2": "red#1"}), *prompts)
    assert columns_TT[1, 3] == 1
    assert columns_TT[3, 3] == 0
    assert columns_TT[1, 1] == 1
    assert number_repeated_words(prompts[0].split()) == ["red#1", "cat", "red#2", "dog"]


def test_a_word_is_not_taken_for_a_part_of_another() -> None:
    tokenizer = tiny_tokenizer()
    prompt = "blue-red cat, red dog"
    alone = find_mentioned_tokens(tokenizer, prompt, WordMention("red"))
    assert alone == find_mentioned_tokens(tokenizer, prompt, WordMention("red", 1))
    parts = tokenizer.tokenize(prompt)
    assert [parts[place - 1] for place in alone] == ["red</w>"]
    assert alone[0] > parts.index("cat</w>")
    # A phrase, and a part of a word that is no word of the prompt itself.
    assert len(find_mentioned_tokens(tokenizer, prompt, WordMention("red dog"))) == 2
    assert find_mentioned_tokens(tokenizer, prompt, WordMention("blue")) == (1,)


def test_words_are_swapped_where_one_is_a_part_of_another() -> None:
    columns_TT, _ = align(Replace(), "blue-red cat, red dog", "blue-red cat, apple dog")
    parts = tiny_tokenizer().tokenize("blue-red cat, red dog")
    place = 1 + len(parts) - 2
    assert columns_TT[place, place] == 1


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ({"dgo": "cat"}, "'dgo' is not in the prompt. Nearest: dog"),
        ({"dog": "cta"}, "'cta' is not in the prompt. Nearest: cat"),
        ({"red": "red#1"}, "'red' occurs 2 times in the prompt: say which is meant, as in red#1"),
        ({"red#3": "cat"}, "Got red#3, but 'red' occurs 2 times in the prompt: they count from 1"),
    ],
)
def test_words_that_are_not_there_are_refused(alignment: dict[str, str], message: str) -> None:
    edit = Replace(alignment=alignment)
    with pytest.raises(ArgumentError, match=message):
        edit.check_prompts_and_words(tokens("red cat red dog", "red apple red dog"))


def test_an_alignment_is_of_words() -> None:
    with pytest.raises(ArgumentError, match="expected words of the target and the words of the"):
        Refine(alignment={"dog": 3})  # type: ignore[dict-item]  # what is tested
