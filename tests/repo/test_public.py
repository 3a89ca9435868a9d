"""`import t2i` is small, honest and costs nothing until it is used."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import t2i

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "pydantic", "typer", "pipelines")

AUDIT = """
import sys

def record(event, arguments):
    if event == "open":
        path, _, flags = arguments
        read = isinstance(path, str) and path.endswith((".py", ".pyc", ".so"))
        if not read or flags & 3:
            events.append((event, path))
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.putenv", "os.mkdir",
                           "os.remove", "os.rename", "shutil.", "tempfile.", "logging.")):
        events.append((event, arguments))

events = []
sys.addaudithook(record)
import t2i
for event in events:
    print(event)
print("loaded:", *(name for name in HEAVY if name in sys.modules))
"""


def test_all_is_sorted_small_and_importable() -> None:
    assert t2i.__all__ == sorted(t2i.__all__)
    assert len(t2i.__all__) <= 15
    for name in t2i.__all__:
        assert getattr(t2i, name) is not None


def test_dir_shows_the_public_names_and_no_others() -> None:
    assert dir(t2i) == t2i.__all__


def test_names_that_wait_for_their_import_are_shown_and_completed(repo: Path) -> None:
    # In a process of its own: in this one their modules may be imported already.
    for package in ("t2i.attention", "t2i.adapters"):
        code = f"import {package} as p; assert set(p.__all__) <= set(dir(p)), dir(p)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=repo, timeout=120)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 't2i' has no attribute 'lod'"):
        _ = t2i.lod


def test_every_public_name_is_documented(repo: Path) -> None:
    pages = [repo / "README.md", *(repo / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for name in t2i.__all__:
        thing = getattr(t2i, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(thing), f"{name} has no docstring"
        assert name in text, f"{name} is in no page of the documentation"
        if not (inspect.isclass(thing) and issubclass(thing, Exception)):
            assert ">>> " in (inspect.getdoc(thing) or ""), f"{name} shows no example"


def test_import_touches_no_file_no_network_and_no_heavy_library(repo: Path) -> None:
    # -B: Python's own cache of compiled modules is not the package's doing.
    code = f"HEAVY = {HEAVY}\n{AUDIT}"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded:"


def test_the_page_of_the_command_line_has_the_exit_code_of_every_error(repo: Path) -> None:
    text = " ".join((repo / "docs" / "command-line.md").read_text("utf-8").split())
    kinds = [
        kind
        for kind in (t2i.T2IError, *t2i.T2IError.__subclasses__())
        if not kind.__module__.startswith("t2i.server.")  # answers of the server, of no command
    ]
    assert len(kinds) > 7
    for kind in kinds:
        told = re.search(rf"\| (\d+) \| [^|]*\(`{kind.__name__}`\)", text)
        assert told, kind.__name__
        assert int(told[1]) == kind.exit_code


def test_a_loaded_model_is_registered_with_auto_pipelines_once_they_are_imported() -> None:
    code = (
        "import sys, t2i\n"
        "pipe = t2i.load()\n"
        "assert 'diffusers.pipelines.auto_pipeline' not in sys.modules\n"
        "from diffusers import AutoPipelineForInpainting\n"
        "assert type(AutoPipelineForInpainting.from_pipe(pipe)) is t2i.InpaintPipeline\n"
        "assert type(sys.modules['transformers.models']).__name__ == '_LazyModule'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
