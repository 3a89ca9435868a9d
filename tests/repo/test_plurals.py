"""A line that counts things says "1 picture": whoever prints a count and a noun takes `plural`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2i.terminal import plural

REPO = Path(__file__).resolve().parents[2]
COUNTED = (
    "picture step word caption tensor file prompt layer row piece key checkpoint letter "
    "character line vector parameter object sheet site pair epoch visit image seed map "
    "string weight token label head generator call group"
).split()
AFTER_A_COUNT = re.compile(rf"^ (?:more |new |other )?(?:{'|'.join(COUNTED)})s\b(?!/)")
NEVER_ONE = {
    "enough": "of diffusers' solvers, which need two",
    "data['epochs']": "most often with a fraction; one is said apart",
    "rate": "a number with a fraction",
    "metadata.num_pictures": "of a sheet: two or more",
    "other.kind": "the name of a node, which samples",
    "place.resolve().name": "the name of a folder",
    "path": "a file, which names",
    "window.size": "of a text encoder, which reads several tokens",
    "second.window_size": "of a text encoder, which reads several tokens",
    "tokens": "what a text encoder reads",
    "index": "a file, which names",
    "value": "a file, which names",
    "template": "a caption, which names",
}
"""What stands before such a word and can never be 1, and why."""
CONSTANT = re.compile(r"^[A-Z_]+$")


def counts(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of each value in an f-string that a noun in the plural follows."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            told = ast.unparse(value.value)
            if AFTER_A_COUNT.match(str(after.value)) and not told.startswith("plural("):
                yield node.lineno, told


@pytest.mark.parametrize("folder", ["t2i", "pipelines", "train"])
def test_whoever_prints_a_count_and_a_noun_calls_plural(folder: str) -> None:
    found = [
        f"{path.relative_to(REPO)}:{line}: {told}"
        for path in sorted((REPO / folder).rglob("*.py"))
        for line, told in counts(path.read_text("utf-8"))
        if told not in NEVER_ONE and not CONSTANT.match(told)
    ]
    assert found == []


def test_a_new_one_would_be_found() -> None:
    assert [*counts('f"{len(found):,} pictures cannot be used"')] == [(1, "len(found)")]
    assert [*counts('f"{plural(1, "picture")} of {n} images"'.replace('"picture"', "'picture'"))]


def test_one_is_one_and_many_have_commas() -> None:
    assert [plural(n, "picture") for n in (0, 1, 2, 1000)] == [
        "0 pictures",
        "1 picture",
        "2 pictures",
        "1,000 pictures",
    ]
