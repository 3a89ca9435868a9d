"""Bounded parsing of UTF-8 text, JSON and TOML from untrusted sources.

Depth, digits and keys are limited. Faults are ValueErrors with their place; those of a file are
the error of its kind.
"""

import codecs
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from t2i.errors import T2IError
from t2i.safe_reading.files import UntrustedFileKind, read_bytes

MAX_NESTING_DEPTH = 100
"""Levels of lists and tables within one another; the deepest that anybody means has some ten."""
MAX_NUMBER_DIGITS = 100
MAX_TOML_KEY_PARTS = 32
"""Parts of a dotted key of a TOML: tomllib takes the square of it in time and memory."""

UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Possessive, and an end of the text ends a string too: no letter is looked at twice.
JSON_STRING_PATTERN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
TOML_STRING_OR_COMMENT_PATTERN = re.compile(
    r'"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+(?:"{3,5})?'
    r"|'''[^']*+(?:'(?!'')[^']*+)*+(?:'{3,5})?"
    r'|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+",
    re.DOTALL,
)
TOML_KEYS = re.compile(r"[^\w.\- \t]")
SURROGATE_ESCAPE_PATTERN = re.compile(r"\\u[dD][89a-fA-F]")


def decode_utf8(data: bytes) -> str:
    """Return UTF-8 bytes, with or without BOM, as text. Raises ValueError with line and byte of
    the fault.
    """
    if data.startswith(UTF16_BOMS):
        raise ValueError("it is UTF-16: save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"it is not UTF-8 text (line {line}, byte {error.start + 1})") from None


def parse_json(
    text: str | bytes,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    lenient: bool = False,
) -> Any:
    """Return the value of a JSON text; ValueError for syntax errors and too deep nesting.

    pairs : as object_pairs_hook of json.loads
    lenient : take NaN, Infinity and halves of characters too, as some programs write them
    """
    if isinstance(text, bytes):
        text = decode_utf8(text)
    if not lenient:
        check_no_lone_surrogates(text)
    check_nesting_depth(text, JSON_STRING_PATTERN)
    try:
        value: Any = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=_parse_int,
            parse_float=float if lenient else _parse_float,
            parse_constant=float if lenient else _refuse_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deep to be read") from None
    if not lenient and SURROGATE_ESCAPE_PATTERN.search(text):
        check_no_lone_surrogates(json.dumps(value, ensure_ascii=False))
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; ValueError for syntax errors, deep nesting and long
    keys.
    """
    bare = TOML_STRING_OR_COMMENT_PATTERN.sub("_", text)
    check_nesting_depth(bare)
    if any(part.count(".") > MAX_TOML_KEY_PARTS for part in TOML_KEYS.split(bare)):
        raise ValueError(f"one of its keys has more than {MAX_TOML_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit
        raise ValueError("it has a number of too many digits") from None
    except RecursionError:
        raise ValueError("it is nested too deep to be read") from None


def read_text(path: str | os.PathLike[str], kind: UntrustedFileKind) -> str:
    """Return the text of a UTF-8 file; the error class of `kind` is raised if it cannot be read."""
    data = read_bytes(path, kind)
    try:
        return decode_utf8(data)
    except ValueError as error:
        raise build_unparsable_error(path, kind, error) from error


def read_json(
    path: str | os.PathLike[str], kind: UntrustedFileKind, *, lenient: bool = False
) -> dict[str, Any]:
    """Return the JSON object in a file; the error class of `kind` is raised if it cannot be
    read.
    """
    text = read_text(path, kind)
    try:
        value = parse_json(text, lenient=lenient)
    except ValueError as error:
        raise build_unparsable_error(path, kind, error, "JSON") from error
    if not isinstance(value, dict):
        raise kind.error_class(
            f"{os.fspath(path)} holds a JSON {type(value).__name__}, not an object."
        )
    return value


def read_toml(path: str | os.PathLike[str], kind: UntrustedFileKind) -> dict[str, Any]:
    """Return the tables of a TOML file; the error class of `kind` is raised if it cannot be
    read.
    """
    text = read_text(path, kind)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise build_unparsable_error(path, kind, error, "TOML") from error


def iterate_numbered_byte_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, bytes) of each line of a file, line end included.

    At most `max_bytes` + 1 bytes of a line are read.
    Only a line feed ends a line: JSON may hold any other separator within a text.
    """
    number = 0
    while data := file.readline(max_bytes + 1):
        number += 1
        yield number, data.removeprefix(codecs.BOM_UTF8) if number == 1 else data


def build_unparsable_error(
    path: str | os.PathLike[str], kind: UntrustedFileKind, error: ValueError, form: str = ""
) -> T2IError:
    """Return an error of the kind's class for a file whose content cannot be parsed."""
    return kind.error_class(
        f"Cannot read the {kind.noun} {os.fspath(path)}{form and f' as {form}'}: {error}."
    )


def check_nesting_depth(text: str, strings: re.Pattern[str] | None = None) -> None:
    """Raise ValueError for brackets nested more than MAX_NESTING_DEPTH deep."""
    if text.count("[") + text.count("{") <= MAX_NESTING_DEPTH:
        return
    depth = 0
    for bracket in re.finditer(r"[][{}]", strings.sub("", text) if strings else text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_NESTING_DEPTH:
            raise ValueError(f"it is nested more than {MAX_NESTING_DEPTH} deep")


def check_no_lone_surrogates(text: str) -> None:
    """Raise ValueError for a text with lone surrogates, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        if "\udc80" <= half <= "\udcff":  # a byte that was none of UTF-8
            raise ValueError(f"it is not UTF-8 text (character {error.start + 1})") from None
        raise ValueError("one of its texts has half of a character (a lone surrogate)") from None


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise ValueError(
            f"a number has {len(digits):,} digits, at most {MAX_NUMBER_DIGITS} are read"
        )
    return int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is more than a number can be")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")
