"""The grammar of prompts: what is read, what is refused and where, and that nothing hangs."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2i.errors import ArgumentError
from t2i.text.grammar import (
    MAX_PROMPT_CHARACTERS,
    PromptError,
    escape_prompt_text,
    parse_sub_prompts,
)
from t2i.text.prompt import Prompt

DIALECTS = ["a1111", "comfy"]


def said(text, dialect="a1111", step=0, steps=20):
    """Text and weight of every segment of a prompt of one part and one section."""
    ((weighted, and_weight),) = Prompt(text, dialect).texts_at_step(step, steps)
    assert and_weight == 1
    (section,) = weighted.sections
    return [(segment.text, pytest.approx(segment.weight)) for segment in section]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red cat", [("a red cat", 1)]),
        ("(cat)", [("cat", 1.1)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[(cat)]", [("cat", 1)]),
        ("a (red:1.3) cat", [("a ", 1), ("red", 1.3), (" cat", 1)]),
        ("(a (b:1.3):1.2)", [("a ", 1.2), ("b", 1.56)]),
        ("(cat: .5 )", [("cat", 0.5)]),
        ("(cat:-1)", [("cat", -1)]),
        ("(cat:+2.)", [("cat", 2)]),
        ("(cat:0)", [("cat", 0)]),
        ("(time 12:30:1.2)", [("time 12:30", 1.2)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(a|b)", [("a|b", 1.1)]),
        ("time 12:30, a | b", [("time 12:30, a | b", 1)]),
        (r"a \(cat\) \[dog\] \\ \: \| \BREAK \AND", [(r"a (cat) [dog] \ : | BREAK AND", 1)]),
        (r"\o/ \ANDROID", [(r"\o/ \ANDROID", 1)]),
        (r"(cat\:1.3)", [("cat:1.3", 1.1)]),
        (r"(smile \(:\):1.3)", [("smile (:)", 1.3)]),
        ("BREAKFAST, SAND", [("BREAKFAST, SAND", 1)]),
        ("", []),
        ("  spaces\tsurvive  ", [("  spaces\tsurvive  ", 1)]),
    ],
)
def test_the_a1111_dialect(text, expected):
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("(a (b:1.3):1.2)", [("a ", 1.2), ("b", 1.3)]),
        ("((b:1.3))", [("b", 1.3)]),
        ("((b):1.3)", [("b", 1.43)]),
        ("[a|b] [c:d:5] BREAK x AND y", [("[a|b] [c:d:5] BREAK x AND y", 1)]),
    ],
)
def test_the_comfy_dialect_has_round_brackets_and_weights_that_stand_for_themselves(text, expected):
    assert said(text, "comfy") == expected


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("a (cat", 2, r'"\(" is never closed. Add "\)", or write "\\\('),
        ("a [cat (dog)", 2, r'"\[" is never closed'),
        ("a cat :)", 7, r'"\)" closes what was never opened \(open is nothing\). Write "\\\)'),
        ("(a]", 2, r'"\]" closes.*open is "\(" at character 1'),
        ("a () b", 2, "nothing in the brackets"),
        ("[|]", 0, "nothing in the brackets"),
        ("[::5]", 0, "nothing is to change into nothing"),
        ("(:1.2)", 1, 'nothing before ":"'),
        ("(cat:)", 4, 'a weight is missing after ":"'),
        ("(cat:1.2.3)", 5, "'1.2.3' is no number"),
        ("(cat:1,3)", 5, "'1,3' is no number"),
        ("(cat:11)", 5, "a weight comes to 11; it must lie from -10 to 10"),
        ("((cat:5):5)", 1, "a weight comes to 25"),
        ("[cat|(dog:-" + "9" * 400 + ")]", 10, "a weight comes to -inf"),
        ("[a:b]", 3, r"must be a step.*got 'b'. Write \"\\:\""),
        ("[a:b:(5)]", 5, "must be a step.*got brackets"),
        ("[a:b:]", 5, "must be a step.*got ''"),
        ("[a:b:-1]", 4, "cannot change at step -1"),
        ("[a:b:c:5]", 6, 'at most "from:to:when"'),
        ("[a:b|c]", 4, r'both ":" and "\|"'),
        ("(a AND b)", 3, r'AND stands in brackets.*"\\AND"'),
        ("AND cat", 0, "AND needs a prompt on either side"),
        ("cat AND ", 8, "AND needs a prompt on either side"),
        ("a AND b:30 AND c", 8, "a weight comes to 30"),
        ("(" * 33 + "x", 32, "more than 32 brackets"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text, position, message):
    with pytest.raises(PromptError, match=re.compile(message, re.DOTALL)) as caught:
        parse_sub_prompts(text)
    assert caught.value.position == position
    assert f"at character {position + 1}: " in str(caught.value)


def test_an_error_points_at_its_place():
    with pytest.raises(PromptError) as caught:
        parse_sub_prompts("masterpiece, a very\nred (cat on a mat")
    lines = str(caught.value).splitlines()
    assert lines[1:] == ["  masterpiece, a very red (cat on a mat", " " * 26 + "^"]


def test_an_error_far_into_a_prompt_shows_the_part_around_it():
    with pytest.raises(PromptError) as caught:
        parse_sub_prompts("cat, " * 1000 + "(" + "dog, " * 1000)
    _, excerpt, caret = str(caught.value).splitlines()
    assert len(excerpt) <= 62
    assert excerpt[caret.index("^")] == "("


@pytest.mark.parametrize("text", ["a" * 1_000_000, "(" * 1_000_000, "\\" * 1_000_000])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_megabyte_is_refused_at_once(text, dialect):
    start = time.perf_counter()
    with pytest.raises(ArgumentError, match="1,000,000 characters; at most 20,000"):
        parse_sub_prompts(text, dialect)
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize(
    "piece", ["(a)", "[a|b]", "[a:b:5]", ":", "\\(", "|", "(((((a:1)))))", "a "]
)
def test_the_longest_prompt_is_read_in_linear_time(piece):
    text = piece * (MAX_PROMPT_CHARACTERS // len(piece))
    start = time.process_time()
    Prompt(text).texts_at_step(3, 20)
    assert time.process_time() - start < 2  # 0.05 s on an idle core


texts = st.text(st.one_of(st.sampled_from("()[]\\:|,. \n"), st.characters()), max_size=60)
hostile = st.lists(
    st.one_of(
        st.sampled_from([*"()[]\\:|", "AND", "BREAK", " ", "a", "1.2", ":0.5]", ":1.3)", "[a|"]),
        st.text(max_size=3),
    ),
    max_size=60,
).map("".join)


@given(hostile, st.sampled_from(DIALECTS))
@settings(deadline=None)  # a machine under load; pytest's own limit ends what hangs
def test_any_text_is_read_or_refused_with_a_typed_error(text, dialect):
    try:
        prompt = Prompt(text, dialect)
    except PromptError:
        return
    changes = prompt.list_change_steps(9)
    assert changes[0] == 0
    for step in range(1, 9):
        assert (prompt.texts_at_step(step, 9) != prompt.texts_at_step(step - 1, 9)) == (
            step in changes
        )
    assert isinstance(prompt.plain_text, str)


@settings(deadline=None)
@given(st.one_of(texts, hostile), st.sampled_from(DIALECTS))
def test_escaped_text_is_read_back_as_it_stands(text, dialect):
    assert said(escape_prompt_text(text, dialect), dialect) == ([(text, 1)] if text else [])
    assert Prompt(escape_prompt_text(text, dialect), dialect).plain_text == text


@settings(deadline=None)
@given(st.one_of(texts, hostile).filter(bool), st.sampled_from(DIALECTS))
@example(":", "comfy")
def test_escaped_text_is_safe_in_brackets(text, dialect):
    assert said(f"({escape_prompt_text(text, dialect)}:1.3)", dialect) == [(text, 1.3)]


trees = st.recursive(
    texts.map(lambda text: (escape_prompt_text(text), text)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(
            lambda pair: (pair[0][0] + pair[1][0], pair[0][1] + pair[1][1])
        ),
        inner.filter(lambda tree: tree[0]).map(lambda tree: (f"({tree[0]}:1.01)", tree[1])),
        inner.filter(lambda tree: tree[0]).map(lambda tree: (f"[{tree[0]}|x]", tree[1])),
        inner.filter(lambda tree: tree[0]).map(lambda tree: (f"[{tree[0]}:x:0.5]", tree[1])),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(trees)
def test_the_text_that_goes_in_comes_out_without_its_syntax(tree):
    source, text = tree
    ((weighted, _),) = Prompt(source).texts_at_step(0, 20)
    assert "".join(weighted.section_texts) == text


def test_a_step_may_stand_between_any_kind_of_space():
    spaced = Prompt("[cat:dog:\x1c5 ]")
    assert spaced.texts_at_step(0, 10) == Prompt("[cat:dog:5]").texts_at_step(0, 10)
    assert spaced.texts_at_step(9, 10) == Prompt("[cat:dog:5]").texts_at_step(9, 10)
