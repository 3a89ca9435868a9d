"""Public names are described, and by what they are or do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
RIDDLES = re.compile(
    r"^(?:Of|The same|As|What|Whether|Who|Whose|How|Where|Which|That|From|For|None|With|Within|Only"
    r"|If|When|Whatever|Whoever|In|Also|Those|These|Here|There|At the|Under|Beside)\b(?!-)"
)
"""Openings that do not say what a thing is or does."""
METAPHORS = {
    *("told", "telling", "said", "says", "heard", "hear", "hearing", "asked", "spoken"),
    *("written", "placed", "opened", "joined", "found", "shown", "known", "seen", "drawn", "taken"),
    *("given", "made", "kept", "held", "listed", "sent", "put", "counted", "wanted", "behind"),
    *("plain", "go", "settle", "open_eyes", "retold", "as_used", "wishes", "visitors"),
}
"""Names that say nothing without their context."""
CLEAR_NAMES = {"HeatMaps.found"}
"""Names among METAPHORS that do: maps.found("cat")."""


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Yield the public functions, classes and methods of a module, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


def is_overload(node: Definition) -> bool:
    """Return whether a definition only repeats another's documentation."""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.endswith((".setter", "overload", "override")) for name in names)


def complaints(source: str) -> Iterator[str]:
    """Yield what is wrong with the docstrings and names of a module."""
    tree = ast.parse(source)
    module = ast.get_docstring(tree)
    if tree.body and not module:
        yield "the module has no docstring"
    elif module and RIDDLES.match(module):
        yield f"the module's docstring opens with {module[:40]!r}"
    for name, node in definitions(tree):
        text = ast.get_docstring(node)
        if name.rpartition(".")[2] in METAPHORS and name not in CLEAR_NAMES:
            yield f"{name}: a name that says nothing by itself"
        if is_overload(node):
            continue
        if not text:
            yield f"{name}: no docstring"
        elif RIDDLES.match(text):
            yield f"{name}: opens with {text[:40]!r}"


@pytest.mark.parametrize("top", ["t2i", "pipelines", "train"])
def test_every_public_name_has_a_docstring_that_says_what_it_is(top: str, repo: Path) -> None:
    wrong = [
        f"{path.relative_to(repo)}: {complaint}"
        for path in sorted((repo / top).rglob("*.py"))
        for complaint in complaints(path.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "def load():\n    return 1",
        '"""Loading."""\ndef load():\n    """What is loaded."""',
        '"""Loading."""\nclass Model:\n    """Model."""\n    def load(self):\n        pass',
        '"""Loading."""\ndef told():\n    """Return the prompt."""',
        '"""Of models."""',
    ],
)
def test_a_missing_docstring_or_a_riddle_is_found(source: str) -> None:
    assert list(complaints(source))


def test_a_described_module_passes() -> None:
    assert not list(complaints('"""Loading."""\ndef load():\n    """Load a model."""\n'))
