"""Learned words are read where they stand as words, and nowhere else."""

import re
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.text.learned_words import (
    add_words_to_tokenizer,
    adding_tokens_as_whole_words,
    expand_learned_words,
    find_continuation_insertions,
    is_known_to_tokenizer,
)
from t2i.text.prompt import Segment, WeightedText

WORDS = ("zun", "Kub", "<s0>", "<s1>", "<my-cat>", "<my-cat>_1", "<my-cat>_2", "ink", "ink_1")


def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMBEDDED_MODELS["embedded"] / "tokenizer")


PLAIN, LEARNED, BORROWED = tokenizer(), tokenizer(), tokenizer()
add_words_to_tokenizer(LEARNED, WORDS)
with adding_tokens_as_whole_words(BORROWED):  # as others do, one by one
    for word in WORDS:
        BORROWED.add_tokens(word)
BOTH = pytest.mark.parametrize("learned", [LEARNED, BORROWED], ids=["ours", "others"])


def occurrences(prompt: str) -> list[str]:
    """The learned words of a prompt that stand as words, as somebody reads them."""
    spelled = "|".join(map(re.escape, sorted(WORDS, key=len, reverse=True)))
    found = re.findall(rf"(?<!\w)(?:{spelled})(?!\w)", prompt, re.IGNORECASE)
    return [word.lower() for word in found]


def read(prompt: str, learned: CLIPTokenizer) -> list[str]:
    known = {number: word for word, number in learned.get_added_vocab().items()}
    ids = learned(prompt, add_special_tokens=False)["input_ids"]
    return [known[number].lower() for number in ids if number in known]


PIECES = st.sampled_from(
    [*WORDS, "zunflower", "kubik", "think", "inked", "<s", "0>", "s0", "a", "red", "flower", "ZUN"]
    + [" ", " ", " ", ",", ".", "'s", "-", "_", "2", "(", ")", "!", "\u00e9", "\u4e00", "<", ">"]
)
PROMPTS = st.lists(PIECES, max_size=12).map("".join)


@BOTH
@given(prompt=PROMPTS)
@example(prompt="a zunflower")
@example(prompt="zunzun, the <s0>flower and x<s1>")
def test_a_prompt_without_the_words_is_read_as_by_one_who_never_learned_them(learned, prompt):
    if occurrences(prompt):
        return
    assert learned.tokenize(prompt) == PLAIN.tokenize(prompt)
    assert expand_learned_words(prompt, learned) == prompt


@BOTH
@given(prompt=PROMPTS)
@example(prompt="a zun, a (zun)! zun's zun-like <s0><s1>.")
def test_every_occurrence_as_a_word_is_read_and_no_other(learned, prompt):
    assert read(prompt, learned) == occurrences(prompt)


@pytest.mark.parametrize(
    ("prompt", "spelled"),
    [
        ("a <my-cat>, red", "a <my-cat> <my-cat>_1 <my-cat>_2, red"),
        ("ink, thinking of inkwells", "ink ink_1, thinking of inkwells"),
        ("INK and ink", "INK ink_1 and ink ink_1"),
        ("a zunflower by <s0><s1>", "a zunflower by <s0><s1>"),
    ],
)
def test_a_word_of_several_vectors_is_spelled_out_where_it_stands(prompt, spelled):
    assert expand_learned_words(prompt, LEARNED) == spelled
    assert expand_learned_words(prompt, PLAIN) == prompt


def test_words_of_the_vocabulary_are_known_under_any_of_its_names():
    assert is_known_to_tokenizer("apple", PLAIN)
    assert is_known_to_tokenizer("Apple", PLAIN)
    assert not is_known_to_tokenizer("zun", PLAIN)
    assert is_known_to_tokenizer("kub", LEARNED)
    assert is_known_to_tokenizer("Kub", LEARNED)


def test_the_tokenizer_is_as_it_was_after_others_have_added_words():
    assert BORROWED.add_tokens.__func__ is CLIPTokenizer.add_tokens
    assert BORROWED.get_added_vocab() == LEARNED.get_added_vocab()


@given(pieces=st.lists(st.tuples(PIECES, st.sampled_from([1.0, 1.3])), max_size=12))
@example(pieces=[("<my-cat>", 1.3), ("flower", 1.0)])
@example(pieces=[("red", 1.3), ("<my-cat>", 1.0), (" <my-cat>_1", 1.3)])
def test_weights_do_not_change_which_words_are_read(pieces):
    weighted = WeightedText((tuple(Segment(text, weight) for text, weight in pieces),))
    spelled = weighted.copy_with_insertions(
        partial(find_continuation_insertions, tokenizer=LEARNED)
    )
    assert spelled.section_texts == (expand_learned_words(weighted.section_texts[0], LEARNED),)
    assert [weight for _, weight in spelled.sections[0]] == [weight for _, weight in pieces]
    for (text, _), (before, _) in zip(spelled.sections[0], pieces, strict=True):
        assert text.startswith(before[:1]), "nothing moves to another weight"
