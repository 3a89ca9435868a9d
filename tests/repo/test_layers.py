"""Imports go one way: along the path of a prompt, then to the loops, then to the edge."""

import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

OURS = ("t2i", "pipelines", "train")
# From the bottom up; modules of one row may import each other. The longest matching name counts.
LAYERS = (
    (
        *("t2i.accelerate_state", "t2i.atomic_files", "t2i.atomic_folders", "t2i.errors"),
        *("t2i.exif", "t2i.environment_info", "t2i.library_messages", "t2i.masks"),
        "t2i.method_patches",
        *("t2i.optional_dependencies", "t2i.pictures", "t2i.randomness", "t2i.run_folder"),
        *("t2i.safe_reading", "t2i.terminal", "t2i.validation_errors"),
    ),
    ("t2i.text",),
    ("t2i.data",),
    ("t2i.scenes",),
    ("t2i.conditioning",),
    ("t2i.attention",),
    ("t2i.denoiser",),
    ("t2i.controls",),
    ("t2i.adapters",),
    ("pipelines",),
    ("train",),
    ("t2i.evaluate",),
    ("t2i", "t2i.cli", "t2i.server"),
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


@cache
def import_statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    """Those of a source, which several tests here read."""
    nodes = ast.walk(ast.parse(source))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions too."""
    for node in import_statements(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        else:
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
        ("t2i.denoiser.loading.model_folder", "from pipelines.loop import sample_latents"),
        ("t2i.denoiser.loading.model_folder", "def f():\n    from train.data import scenes"),
        ("t2i.text.encoders.selection", "import t2i.denoiser"),
        ("t2i.text.encoders.selection", "from t2i import load"),
        ("t2i.text.encoders.selection", "from t2i import denoiser"),
        ("t2i.text.encoders.selection", "from ...denoiser import folder"),
        ("pipelines.loop", "import train.loop"),
        ("train.loop", "from t2i.cli.output import note"),
        ("t2i.misc", ""),
    ],
)
def test_the_test_sees_an_upward_import(module: str, source: str) -> None:
    known = {
        "t2i",
        "t2i.denoiser",
        "t2i.denoiser.loading.model_folder",
        "pipelines.loop",
        "train.loop",
    }
    assert wrong_imports(known, module, source, is_package=False)


def boxes(importer: str, imported: str) -> tuple[str, str, str]:
    """The folder where two modules part, and the child of it that each is in.

    Children of t2i stand beside pipelines and train, whose imports mix with theirs.
    """
    ours, theirs = (
        (["", *parts] if parts[0] != "t2i" else ["", "t2i." + ".".join(parts[1:2]), *parts[2:]])
        for parts in (importer.split("."), imported.split("."))
    )
    shared = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    return ".".join(ours[1:shared]), ours[shared], theirs[shared]


def rooms(found: Mapping[str, Path]) -> dict[str, dict[str, set[str]]]:
    """Folder -> each of its children -> the children that it imports, wherever in a file."""
    graph: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    packages = {name for name, path in found.items() if path.name == "__init__.py"}
    for module, path in found.items():
        if module in packages:
            continue
        for _, name in imported(path.read_text(encoding="utf-8"), module, False):
            target = name if name in found else name.rpartition(".")[0]
            if target in found and target != module and not module.startswith(f"{target}."):
                folder, importer, other = boxes(module, target)
                graph[folder][importer].add(other)
    return graph


def test_no_room_is_in_a_circle_of_imports(repo: Path) -> None:
    circles = []
    for folder, children in rooms(modules(repo)).items():
        try:
            TopologicalSorter(children).prepare()
        except CycleError as error:
            circles.append(f"{folder or 'top level'}: {' -> '.join(error.args[1])}")
    assert circles == []


def test_no_folder_holds_more_files_than_one_can_see(repo: Path) -> None:
    for folder in {path.parent for path in modules(repo).values()}:
        files = [path.name for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(files) <= 15, f"{folder.relative_to(repo)} holds {len(files)} files: make rooms"


def test_every_library_imported_is_declared(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        requirement.split(">=")[0].partition("[")[0].lower()
        for requirement in (
            *project["dependencies"],
            *extras["track"],
            *extras["evaluate"],
            *extras["bitsandbytes"],
            *extras["data"],
            *extras["hints"],
            *extras["optimizers"],
            *extras["ray"],
            *extras["serve"],
        )
    }
    owners = packages_distributions()
    for module, path in modules(repo).items():
        for line, name in imported(path.read_text(encoding="utf-8"), module, False):
            top = name.split(".")[0]
            if top and top not in {*OURS, *PEERS, *sys.stdlib_module_names}:
                distributions = {owner.lower() for owner in owners.get(top, [top])}
                assert distributions & declared, f"{module}:{line} imports {top}, not declared"
