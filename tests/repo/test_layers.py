"""Imports go one way: along the path of a prompt, then to the loops, then to the edge."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

OURS = ("t2i", "pipelines", "train")
# From the bottom up; modules of one row may import each other. The longest matching name counts.
LAYERS = (
    (
        *("t2i.errors", "t2i.exif", "t2i.extras", "t2i.files", "t2i.folders", "t2i.machine"),
        *("t2i.masks", "t2i.pictures", "t2i.process_state", "t2i.quiet", "t2i.reading"),
        "t2i.terminal",
    ),
    ("t2i.text",),
    ("t2i.conditioning",),
    ("t2i.attention",),
    ("t2i.denoiser", "t2i.recogniser"),
    ("t2i.adapters",),
    ("pipelines",),
    ("train",),
    ("t2i", "t2i.cli", "t2i.evaluate", "t2i.server"),
)
# Measured beside ours where somebody has installed them; nothing of ours needs them.
PEERS = {"daam"}
RANKS = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def rank(module: str) -> int | None:
    """Height of a module; None for one that has no layer."""
    if module in RANKS:
        return RANKS[module]
    parent = module.rpartition(".")[0]
    return rank(parent) if parent not in ("", "t2i") else None


def modules(repo: Path) -> dict[str, Path]:
    paths = (path for name in OURS for path in (repo / name).rglob("*.py"))
    return {module_name(path.relative_to(repo)): path for path in sorted(paths)}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
                origin = ".".join([*base, origin] if origin else base)
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"


def wrong_imports(known: set[str], module: str, source: str, is_package: bool) -> list[str]:
    here = rank(module)
    if here is None:
        return [f"{module} has no layer: give it one in LAYERS"]
    wrong = []
    for line, name in imported(source, module, is_package):
        if name.split(".")[0] not in OURS or name == "t2i.__version__":
            continue
        # `from package import thing`: the thing is a module, or it lives in the package.
        target = name if name in known else name.rpartition(".")[0] or name
        there = rank(target)
        if there is None or there > here:
            wrong.append(f"{module}:{line} imports {target}, which is above it")
    return wrong


def test_no_module_imports_from_a_layer_above_it(repo: Path) -> None:
    found = modules(repo)
    wrong = [
        message
        for module, path in found.items()
        for message in wrong_imports(
            set(found), module, path.read_text(encoding="utf-8"), path.name == "__init__.py"
        )
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("t2i.denoiser.folder", "from pipelines.loop import sample"),
        ("t2i.denoiser.folder", "def f():\n    from train.data import scenes"),
        ("t2i.text.encoder", "import t2i.denoiser"),
        ("t2i.text.encoder", "from t2i import load"),
        ("t2i.text.encoder", "from t2i import denoiser"),
        ("t2i.text.encoder", "from ..denoiser import folder"),
        ("pipelines.loop", "import train.loop"),
        ("train.loop", "from t2i.cli.answer import note"),
        ("t2i.misc", ""),
    ],
)
def test_the_test_sees_an_upward_import(module: str, source: str) -> None:
    known = {"t2i", "t2i.denoiser", "t2i.denoiser.folder", "pipelines.loop", "train.loop"}
    assert wrong_imports(known, module, source, is_package=False)


def test_every_library_imported_is_declared(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        requirement.split(">=")[0].lower()
        for requirement in (
            *project["dependencies"],
            *extras["track"],
            *extras["serve"],
            *extras["evaluate"],
            *extras["bitsandbytes"],
            *extras["data"],
            *extras["optimizers"],
        )
    }
    owners = packages_distributions()
    for module, path in modules(repo).items():
        for line, name in imported(path.read_text(encoding="utf-8"), module, False):
            top = name.split(".")[0]
            if top and top not in {*OURS, *PEERS, *sys.stdlib_module_names}:
                distributions = {owner.lower() for owner in owners.get(top, [top])}
                assert distributions & declared, f"{module}:{line} imports {top}, not declared"
