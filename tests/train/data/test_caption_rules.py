"""What becomes of captions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.caption_rules import (
    CaptionRules,
    compose_caption,
    join_with_space_if_needed,
    list_possible_captions,
)

WORDS = st.text("abc ", max_size=6)
CAPTIONS = st.lists(st.lists(WORDS, max_size=4).map(",".join), max_size=3)
WORDINGS = st.builds(
    CaptionRules,
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from(["", "sks", "a b"]),
    WORDS,
    WORDS,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_rules_a_caption_stays_as_it_is() -> None:
    assert compose_caption(["a , b,  c"], CaptionRules(), rng()) == "a , b,  c"
    assert compose_caption([], CaptionRules(), rng()) == ""


def test_one_of_several_captions_is_drawn_each_as_often() -> None:
    drawn = Counter(
        compose_caption(["a", "b", "c"], CaptionRules(), rng(seed)) for seed in range(600)
    )
    assert set(drawn) == {"a", "b", "c"}
    assert min(drawn.values()) > 150


def test_tags_are_shuffled_and_the_first_ones_kept() -> None:
    wording = CaptionRules(shuffle=True, keep_tokens=1)
    drawn = {
        compose_caption(["sks dog, park, sun, grass"], wording, rng(seed)) for seed in range(60)
    }
    assert len(drawn) == 6
    assert all(caption.startswith("sks dog, ") for caption in drawn)
    assert {frozenset(caption.split(", ")) for caption in drawn} == {
        frozenset({"sks dog", "park", "sun", "grass"})
    }


def test_tags_are_left_out_but_for_the_first_ones() -> None:
    wording = CaptionRules(keep_tokens=1, tag_dropout=0.25)
    drawn = [
        compose_caption(["a, b, c, d, e"], wording, rng(seed)).split(", ") for seed in range(400)
    ]
    assert all(tags[0] == "a" and tags == sorted(tags) for tags in drawn)
    kept = sum(len(tags) - 1 for tags in drawn) / 1600
    assert abs(kept - 0.75) < 0.04


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("a dog", "sks, a dog"),
        ("a sks dog", "a sks dog"),
        ("a sksy dog", "sks, a sksy dog"),
        ("", "sks"),
    ],
)
def test_the_trigger_goes_before_a_caption_that_lacks_it(caption: str, told: str) -> None:
    assert compose_caption([caption], CaptionRules(trigger="sks"), rng()) == told


@pytest.mark.parametrize(
    ("left", "right", "told"),
    [
        ("a photo of", "a dog", "a photo of a dog"),
        ("a photo of ", "a dog", "a photo of a dog"),
        ("a dog", ", oil on canvas", "a dog, oil on canvas"),
        ("", "a dog", "a dog"),
        ("a dog", "", "a dog"),
    ],
)
def test_prefix_and_suffix_are_joined_as_one_would_write(left: str, right: str, told: str) -> None:
    assert join_with_space_if_needed(left, right) == told


@given(captions=CAPTIONS, wording=WORDINGS, seed=st.integers(0, 50))
def test_every_wording_lists_whatever_is_drawn(
    captions: list[str], wording: CaptionRules, seed: int
) -> None:
    every = list_possible_captions(captions, wording)
    if every is not None:
        assert compose_caption(captions, wording, rng(seed)) in every


def test_shuffled_tags_are_too_many_to_list() -> None:
    assert list_possible_captions(["a, b, c"], CaptionRules(shuffle=True)) is None
    assert list_possible_captions(["a, b"], CaptionRules(shuffle=True, keep_tokens=1)) == {"a, b"}
    assert list_possible_captions(["a", "b"], CaptionRules(prefix="x")) == {"x a", "x b"}
