"""Depth, digits, keys and letters of what others wrote are bounded before a library counts them."""

import json
import time
import tracemalloc
from collections.abc import Callable

import pytest

from t2i.safe_reading import parse_json, parse_toml

DEEP = "it is nested more than 100 deep"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, DEEP),
        ("[" * 101 + "]" * 101, DEEP),
        ('{"a":' * 3000 + "1" + "}" * 3000, DEEP),
        ("9" * 6000, "a number has 6,000 digits, at most 100 are read"),
        ("NaN", "NaN is no number in JSON"),
        ("-1e999", "-1e999 is more than a number can be"),
        ('{"\\ud800": 1}', "half of a character"),
        ('["a", "\udcff"]', "it is not UTF-8 text"),
        (b'["\xff"]', r"it is not UTF-8 text \(line 1, byte 3\)"),
        ("{", "Expecting property name"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_is_none_or_too_much_is_refused(text: str | bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(text)


def test_json_that_is_sound_is_as_json_reads_it() -> None:
    told = {"[[{": ["a\\", '"', "\U0001f600", 1.5, 10**99, None, True]}
    assert parse_json(json.dumps(told)) == told
    assert parse_json(json.dumps(told, ensure_ascii=False).encode()) == told
    brackets = ["[" * 500, '\\"[' * 200]
    assert parse_json(json.dumps(brackets)) == brackets
    assert parse_json("-Infinity", lenient=True) == float("-inf")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, DEEP),
        ("a = " + "{b = " * 3000, DEEP),
        (".".join("a" * 20_000) + " = 1", "one of its keys has more than 32 parts"),
        ("[" + " . ".join("a" * 40) + "]", "one of its keys has more than 32 parts"),
        ('"a"."b".' * 30 + "c = 1", "one of its keys has more than 32 parts"),
        ("a = " + "9" * 6000, "it has a number of too many digits"),
        ("a = 'x", "Expected"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_toml_that_is_none_or_too_much_is_refused_for_little(text: str, complaint: str) -> None:
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(ValueError, match=complaint):
        parse_toml(text)
    assert time.process_time() - begun < 2
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_toml_that_is_sound_is_read() -> None:
    text = (
        "# [[[[ a.b.c\n"
        f"a = {[n / 8 for n in range(500)]}\n"
        f'b = "{"." * 500}{"[" * 500}"\n'
        f"c = '''{'[' * 500}\n{'.' * 500}'''\n"
        'd = """\\"""" # an escaped quote\n'
        "[e.f]\n" + "".join(f"k{number} = [{number}.5]\n" for number in range(500))
    )
    told = parse_toml(text)
    assert told["a"][8] == 1.0
    assert (told["b"], told["d"]) == ("." * 500 + "[" * 500, '"')
    assert len(told["e"]["f"]) == 500


@pytest.mark.parametrize(
    ("parse", "begin"),
    [
        (parse_json, "[" * 101 + '"'),
        (parse_toml, 'a = "'),
        (parse_toml, 'a = """'),
        (parse_toml, "a = '''"),
    ],
    ids=["json", "toml", "toml-lines", "toml-literal"],
)
def test_a_text_that_never_ends_takes_no_square_of_time(
    parse: Callable[[str], object], begin: str
) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError, match=r"nested|Expected|Unterminated"):
        parse(begin + '\\"' * 20_000)  # each of these quotes could begin another text
    assert time.process_time() - begun < 2
