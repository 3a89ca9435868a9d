"""The kind of change between two prompts, and what it chooses."""

import pytest

from pipelines.prompt_to_prompt.automatic_edits import (
    WordEditOptions,
    choose_edits,
    choose_target_edit_settings,
)
from pipelines.prompt_to_prompt.edit_kinds import SETTINGS_BY_CHANGE_KIND, classify_text_change
from t2i.attention import LocalBlend, Refine, Reweight
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt


@pytest.mark.parametrize(
    ("source", "target", "kind", "words"),
    [
        ("a red apple on a hill", "a green apple on a hill", "recolour", ("apple", "apple")),
        ("an apple", "a pink apple", "recolour", ("apple", "apple")),
        ("a cat on a blue sky", "a cat on a red sky", "background", ("sky", "sky")),
        ("a big red apple tree", "a big green apple tree", "recolour", ("tree", "tree")),
        ("a cat on a blue background", "a dog on a blue background", "swap", ("cat", "dog")),
        ("a cat sitting on a chair", "a dog sitting on a chair", "swap", ("cat", "dog")),
        ("a king on a red throne", "a cat on a red throne", "swap", ("king", "cat")),
        ("a red apple", "a green pear", "swap", (("red", "apple"), ("green", "pear"))),
        ("a star", "a star and a heart", "addition", None),
        ("a cat", "a cat with a hat on its head", "addition", None),
        ("a star and a heart", "a star", "other", None),
        ("a small fish", "a large fish", "other", None),
        ("a heart above a star", "a heart below a star", "other", None),
        ("a cat", "a cat", "other", None),
    ],
)  # fmt: skip
def test_the_kind_and_the_blend_come_from_what_the_words_change(source, target, kind, words):
    change = classify_text_change(source, target)
    assert change.kind == kind
    (choice,) = choose_target_edit_settings([source, target], 10, WordEditOptions())
    sides = None if words is None else tuple((w,) if isinstance(w, str) else w for w in words)
    assert choice.blend == sides
    assert (choice.cross_replace, choice.self_replace) == (
        SETTINGS_BY_CHANGE_KIND[kind].cross_replace,
        SETTINGS_BY_CHANGE_KIND[kind].self_replace,
    )


def test_a_stronger_word_alone_is_a_kind_and_beside_other_words_it_is_not():
    options = WordEditOptions(weights={"red": 2.0})
    alone, beside = choose_target_edit_settings(
        ["a red cat", "a red cat", "a red dog"], 10, options
    )
    assert alone.change.kind == "stronger word"
    assert beside.change.kind == "swap"
    edits = choose_edits(["a red cat", "a red cat"], 10, options, 256)
    assert [edit.steps for edit in edits if isinstance(edit, Reweight)] == [(0.0, 0.4)]


def test_what_is_wished_for_holds_over_what_the_kind_says():
    options = WordEditOptions(cross_replace=(0.0, 0.5), self_replace=(0.1, 0.3), blend=None)
    (choice,) = choose_target_edit_settings(["a cat", "a dog"], 10, options)
    assert (choice.cross_replace, choice.self_replace, choice.blend) == (
        (0.0, 0.5),
        (0.1, 0.3),
        None,
    )
    with pytest.raises(ArgumentError, match="Got blend='cat', expected \"auto\", None, or a word"):
        WordEditOptions(blend="cat")


def test_an_addition_leaves_the_new_thing_its_place():
    edits = choose_edits(["a star", "a star and a heart"], 10, WordEditOptions(), 256)
    assert [(type(edit), edit.steps) for edit in edits] == [(Refine, (0.0, 0.2))]


def test_words_that_change_on_the_way_are_edited_as_published():
    turning = ["a cat", Prompt("a [dog:fish:0.5]")]
    (choice,) = choose_target_edit_settings(turning, 10, WordEditOptions())
    assert choice.change.kind == "other"
    assert not any(
        isinstance(e, LocalBlend) for e in choose_edits(turning, 10, WordEditOptions(), 256)
    )
