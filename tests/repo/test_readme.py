"""What the pages tell a reader to type works as it stands."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2i.cli import main

REPO = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in REPO.glob("docs/*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Checked by other means, or not ours.
TAKEN_ON_TRUST = ("git clone", "git switch", "cd ", "pip install", "source ")
# Too long to be run twice: the test that runs it.
RUN_ELSEWHERE = {"t2i evaluate embedded --quick": "tests/evaluate/test_quick.py"}
# Enough to see that the command line holds; the last of two spellings counts.
SHORT = {
    "generate": ("--steps", "2"),
    "inspect": ("--steps", "2"),
    "edit": ("--steps", "2"),
    "train": ("--dry-run",),
}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        path = REPO / page
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        yield from ((page, code) for kind, code in FENCE.findall(text) if kind == language)


def commands() -> list[str]:
    lines = (line for _, code in blocks("bash") for line in code.replace("\\\n", " ").splitlines())
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


def test_the_readme_has_blocks_to_run() -> None:
    assert any(page == "README.md" for page, _ in blocks("bash"))
    assert any(page == "README.md" for page, _ in blocks("python"))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_in_the_pages_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command, comments=True)
    if command in RUN_ELSEWHERE:
        assert (REPO / RUN_ELSEWHERE[command]).is_file()
    elif words[0] == "make":
        names = {word for word in words[1:] if "=" not in word}
        assert names <= targets((REPO / "Makefile").read_text())
    elif words[0] == "t2i":
        # As a reader who stands in the clone, yet without leaving anything in it.
        (tmp_path / "configs").symlink_to(REPO / "configs")
        monkeypatch.chdir(tmp_path)
        if words[1] == "show" or "--from" in words:
            # The reader has made the picture a line before.
            (made,) = (word for word in words if word.endswith(".png"))
            assert main(["generate", "a cat", "--out", made, "--steps", "2"]) == 0
        assert main([*words[1:], *SHORT.get(words[1], ())]) == 0
    elif words[:2] == ["accelerate", "launch"]:
        assert words[words.index("-m") + 1] == "train"
        assert (REPO / words[words.index("-m") + 2]).is_file()
    else:
        assert command.startswith(TAKEN_ON_TRUST), f"no way to check {command!r} yet: add one here"


def test_commands_that_follow_on_one_another_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a blue car", "--num", "4", "--out", "cars", "--steps", "2"]) == 0
    shown = [code for page, code in blocks("console") if page == "README.md"]
    lines = [line for code in shown for line in code.splitlines()]
    assert lines
    for line in lines:
        assert line.startswith("$ t2i ")
        assert main(shlex.split(line)[2:]) == 0


@pytest.mark.parametrize("page", sorted({page for page, _ in blocks("python")}))
def test_python_in_the_pages_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # a page's blocks follow on one another
    for source, code in blocks("python"):
        if source == page:
            exec(compile(code, page, "exec"), names)


def test_links_in_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = (REPO / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in target:
                place = (REPO / page).parent / target
                assert os.path.exists(place), f"{page} points to {target}"
