"""What a prompt says at each step."""

import pytest

from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt, Segment, WeightedText


def texts(text, steps):
    """What a prompt of one part and one section says, step by step."""
    return [Prompt(text).texts_at_step(step, steps)[0][0].section_texts[0] for step in range(steps)]


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("[cat:dog:2]", 4, ["cat", "cat", "dog", "dog"]),
        ("[cat:dog:0.5]", 4, ["cat", "cat", "dog", "dog"]),
        ("[cat:dog:0.3]", 4, ["cat", "dog", "dog", "dog"]),
        ("a[n owl:2]", 3, ["a", "a", "an owl"]),
        ("a [red ::1]cat", 3, ["a red cat", "a cat", "a cat"]),
        ("[cat:dog:0]", 2, ["dog", "dog"]),
        ("[cat:dog:99]", 2, ["cat", "cat"]),
        ("[cat:dog:1.0]", 2, ["cat", "cat"]),
        ("[a|b|c]", 5, ["a", "b", "c", "a", "b"]),
        ("x[ y|]", 3, ["x y", "x", "x y"]),
        ("[a:[b:c:3]:1]", 4, ["a", "b", "b", "c"]),
        ("[[a|b]:c:2]", 4, ["a", "b", "c", "c"]),
        ("[cat:(dog:1.2):1]", 2, ["cat", "dog"]),
    ],
)
def test_schedules_and_alternation(text, steps, expected):
    assert texts(text, steps) == expected


def test_weights_reach_into_what_changes():
    prompt = Prompt("(a [cat:(dog:1.5):1]:2)")
    assert prompt.texts_at_step(0, 2)[0][0].sections == ((Segment("a cat", 2.0),),)
    assert prompt.texts_at_step(1, 2)[0][0].sections == ((Segment("a ", 2.0), Segment("dog", 3.0)),)


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("a cat", 20, (0,)),
        ("[a:b:5]", 20, (0, 5)),
        ("[a:b:0.25] [c:d:0.5]", 20, (0, 5, 10)),
        ("[a:b:5]", 4, (0,)),
        ("[a:b:0]", 4, (0,)),
        ("[a:a:2]", 4, (0,)),
        ("[a|b]", 4, (0, 1, 2, 3)),
        ("[[a|b]:c:2]", 5, (0, 1, 2)),
        ("[a:b:" + "9" * 400 + "]", 4, (0,)),
    ],
)
def test_changes_are_the_steps_that_say_something_new(text, steps, expected):
    assert Prompt(text).list_change_steps(steps) == expected


def test_break_divides_sections_and_takes_the_space_around_it():
    ((weighted, _),) = Prompt("a red BREAK (big:1.2) cat BREAK BREAK").texts_at_step(0, 1)
    assert weighted.section_texts == ("a red", "big cat", "")
    assert weighted.sections[1] == (Segment("big", 1.2), Segment(" cat", 1.0))


def test_and_divides_parts_with_weights():
    parts = Prompt("a cat AND a (red:1.2) dog :0.5 AND sky: blue AND  -x :-1").texts_at_step(0, 1)
    assert [(weighted.section_texts, weight) for weighted, weight in parts] == [
        (("a cat",), 1),
        (("a red dog",), 0.5),
        (("sky: blue",), 1),
        (("-x",), -1),
    ]


def test_a_prompt_without_and_keeps_its_last_number():
    assert Prompt("a cat at 12:30").texts_at_step(0, 1)[0] == (
        WeightedText(((Segment("a cat at 12:30", 1.0),),)),
        1.0,
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a ((red)) [cat:dog:0.5], [x|y]", "a red cat, x"),
        ("a [new:5] BREAK b AND (c:1.2) :2", "a new b c"),
        ("[|b] (un)usual \\(x\\)", "b unusual (x)"),
    ],
)
def test_plain_is_the_text_without_syntax(text, plain):
    assert Prompt(text).plain_text == plain


def test_weights_act_as_in_the_dialect_unless_told_otherwise():
    assert Prompt("a").texts_at_step(0, 1)[0][0].weight_mode == "a1111"
    assert Prompt("a", dialect="comfy").texts_at_step(0, 1)[0][0].weight_mode == "comfy"
    assert Prompt("a", weights="comfy").texts_at_step(0, 1)[0][0].weight_mode == "comfy"


def test_weights_of_one_are_no_weights():
    def weights(prompt: str) -> set[float]:
        sections = Prompt(prompt).texts_at_step(0, 1)[0][0].sections
        return {segment.weight for section in sections for segment in section}

    assert weights("a (cat:1.0) [(dog)]") == {1.0}
    assert weights("a (cat:1.01)") == {1.0, 1.01}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "a", "dialect": "comfi"}, "Unknown dialect 'comfi'. Did you mean 'comfy'"),
        ({"text": "a", "weights": "a111"}, "Unknown weight mode 'a111'. Did you mean 'a1111'"),
        ({"text": 3}, "A prompt is a string; got a int: 3"),
    ],
)
def test_what_is_no_prompt_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        Prompt(**options)


def test_steps_that_do_not_exist_are_refused():
    with pytest.raises(ArgumentError, match="no step 4 in a run of 4: they count from 0 to 3"):
        Prompt("a").texts_at_step(4, 4)
    with pytest.raises(ArgumentError, match="steps=0: a run has at least one step"):
        Prompt("a").list_change_steps(0)
