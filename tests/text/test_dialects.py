"""Prompts weigh what they weigh in the program whose grammar it is, or are refused.

`as_a1111` and `as_comfy` state, apart from our parser, what the two programs make of brackets,
weights, backslashes and BREAK: a weight for each letter of each chunk.
"""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i.text.grammar import PromptError
from t2i.text.prompt import Prompt


def ours(text, dialect):
    """(letter, weight) of each section."""
    ((weighted, _),) = Prompt(text, dialect).texts_at_step(0, 20)
    return [
        [(letter, segment.weight) for segment in section for letter in segment.text]
        for section in weighted.sections
    ]


def pairs_of(tokens):
    """Where each bracket closes, or None if one is left over."""
    opened, closes = [], {}
    for place, token in enumerate(tokens):
        if token in ("(", "["):
            opened.append(place)
        elif token[0] in ":)]" and token[-1] in ")]":
            if not opened or tokens[opened[-1]] != {")": "(", "]": "["}[token[-1]]:
                return None
            closes[opened.pop()] = place
    return None if opened else closes


def as_a1111(text):
    """Each bracket multiplies all that is in it, BREAK's own -1 too; only what has -1 divides."""
    token = r"\\[()\[\]\\]|:\s*[+-]?[.\d]+\s*\)|\s*\bBREAK\b\s*|[()\[\]]|."
    tokens = re.findall(token, text, re.DOTALL)
    closes = pairs_of(tokens)
    assert closes is not None
    weights = [-1.0 if "BREAK" in token else 1.0 for token in tokens]
    for start, end in closes.items():
        closing = tokens[end]
        factor = {")": 1.1, "]": 1 / 1.1}.get(closing) or float(closing[1:-1])
        weights[start:end] = [weight * factor for weight in weights[start:end]]
    chunks = [[]]
    for place, (token, weight) in enumerate(zip(tokens, weights, strict=True)):
        if "BREAK" in token and weight == -1:
            chunks.append([])
        elif place not in closes and place not in closes.values():
            said = token[1:] if token[0] == "\\" else token
            chunks[-1] += [(letter, weight) for letter in said]
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()
    return chunks


def as_comfy(text):
    """A number behind the last colon of a bracket stands for itself; without it 1.1 times."""
    tokens = re.findall(r"\\[()]|.", text, re.DOTALL)
    closes = pairs_of([token if token in ("(", ")") else "x" for token in tokens])
    assert closes is not None

    def read(start, end, weight):
        said = []
        while start < end:
            if tokens[start] != "(":
                said.append(
                    (tokens[start][-1] if len(tokens[start]) > 1 else tokens[start], weight)
                )
                start += 1
                continue
            close = closes[start]
            inner, inner_end = weight * 1.1, close
            colons = [i for i in range(start + 2, close) if tokens[i] == ":"]
            if colons:
                try:
                    inner = float("".join(tokens[colons[-1] + 1 : close]))
                    inner_end = colons[-1]
                except ValueError:
                    pass
            said += read(start + 1, inner_end, inner)
            start = close + 1
        return said

    return [read(0, len(tokens), 1.0)]


def close_to(chunks):
    """Without spaces: they are no tokens, and their weight weighs nothing."""
    return [
        [(letter, pytest.approx(weight)) for letter, weight in chunk if not letter.isspace()]
        for chunk in chunks
    ]


def inked(chunks):
    return [[pair for pair in chunk if not pair[0].isspace()] for chunk in chunks]


SPELLINGS = [
    *("1", "1.5", ".5", "2.", "+1.5", "-1", "1e1", "1E0", "15e-1", "-2.5e+0", "1_0", " 1.2 "),
    *("0", "-0.0", "1e-3", "\u0663", "1.2.3", "1,5", "e1", "1e", "0x1", "nan", "inf", "1e99"),
]


@pytest.mark.parametrize("written", SPELLINGS)
def test_a_number_that_python_reads_is_a_weight_in_comfy(written):
    if written in ("nan", "inf", "1e99", "1.2.3", "1,5"):
        with pytest.raises(PromptError, match=r"a weight comes to|is no number"):
            Prompt(f"(a:{written})", "comfy")
    else:
        assert inked(ours(f"(a:{written})", "comfy")) == close_to(as_comfy(f"(a:{written})"))


@pytest.mark.parametrize("written", SPELLINGS)
def test_digits_and_a_point_are_a_weight_in_a1111_and_all_else_is_text(written):
    if written in ("1.2.3", "1,5"):
        with pytest.raises(PromptError, match="is no number"):
            Prompt(f"(a:{written})")
    else:
        assert inked(ours(f"(a:{written})", "a1111")) == close_to(as_a1111(f"(a:{written})"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a \(cat\)", [("a (cat)", 1)]),
        (r"C:\\x", [(r"C:\\x", 1)]),
        (r"a\: b", [(r"a\: b", 1)]),
        (r"\\\(a\)", [(r"\\(a)", 1)]),
        (r"(a\:1.3)", [("a\\", 1.3)]),
        ("(a:b:1.3)", [("a:b", 1.3)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("((a:2) b:1e0)", [("a", 2), (" b", 1)]),
        ("((a:2) b)", [("a", 2), (" b", 1.1)]),
        ("(((a)):2)", [("a", 2.42)]),
        ("(a:1.3 b)", [("a:1.3 b", 1.1)]),
        ("a:1e1", [("a:1e1", 1)]),
    ],
)
def test_comfy_keeps_backslashes_and_takes_the_last_colon(text, expected):
    ((weighted, _),) = Prompt(text, "comfy").texts_at_step(0, 1)
    assert list(weighted.sections[0]) == [(said, pytest.approx(w)) for said, w in expected]
    assert inked(ours(text, "comfy")) == close_to(as_comfy(text))


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a BREAK b", ("a", "b")),
        ("a BREAK BREAK b", ("a", "", "b")),
        ("a BREAK", ("a",)),
        ("a BREAK BREAK", ("a", "")),
        ("BREAK", ("",)),
        ("BREAK a", ("", "a")),
        ("a,BREAK,b", ("a,", ",b")),
        ("(a BREAK b:1)", ("a", "b")),
        ("[(a BREAK b)]", ("a", "b")),
        ("((a BREAK b:2):0.5)", ("a", "b")),
        ("[a BREAK b:c:5]", ("a", "b")),
        ("[a BREAK b|c]", ("a", "b")),
        ("(a BREAK b)", ("a BREAK b",)),
        ("[a BREAK b]", ("a BREAK b",)),
        ("a (b BREAK c:1.3) BREAK d", ("a b BREAK c", "d")),
    ],
)
def test_break_divides_where_a1111_divides(text, texts):
    ((weighted, _),) = Prompt(text).texts_at_step(0, 20)
    assert weighted.section_texts == texts


def test_a_break_in_weighed_brackets_is_a_word_of_the_opposite_weight():
    ((weighted, _),) = Prompt("(a BREAK b:1.3)").texts_at_step(0, 20)
    assert weighted.sections == ((("a ", 1.3), ("BREAK", -1.3), (" b", 1.3)),)


pieces = st.lists(
    st.sampled_from(
        [
            *("a", " ", "b c", "(", ")", "(", ")", ":", "1", "1.3", ":1.3)", ":0.5)", ":1e1)"),
            *(":-1)", ": .5 )", "\\(", "\\)", "BREAK", " BREAK ", ",", "7:30", "\n"),
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None, max_examples=150)
@given(pieces.filter(lambda text: not re.search(r"[\w\\]BREAK|BREAK\w", text)))
def test_every_prompt_weighs_what_it_does_in_a1111_or_is_refused(text):
    try:
        read = ours(text, "a1111")
    except PromptError:
        return
    assert inked(read) == close_to(as_a1111(text))


@settings(deadline=None, max_examples=150)
@given(st.one_of(pieces, st.text("a(:1.)\\e- ", max_size=14)))
def test_every_prompt_weighs_what_it_does_in_comfy_or_is_refused(text):
    try:
        read = ours(text, "comfy")
    except PromptError:
        return
    assert inked(read) == close_to(as_comfy(text))
