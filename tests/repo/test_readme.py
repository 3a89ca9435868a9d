"""What the pages tell a reader to type works as it stands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.examples import examples, illustrations
from docs.pages import PAGES, REPO, anchors, blocks, links, text_of
from pipelines.base.pipeline import Pipeline
from t2i.cli import main

# Checked by other means, or not ours.
TAKEN_ON_TRUST = ("git clone", "git switch", "cd ", "pip install", ". .venv/bin/activate")
# Too long to be run twice: the test that runs it.
RUN_ELSEWHERE = {
    "t2i evaluate embedded --quick": "tests/evaluate/test_quick.py",
    "t2i evaluate embedded --suite real --quick": "tests/evaluate/test_quick.py",
    "docs/getting-started.md": "tests/train/test_docs_getting_started.py",
}
# Enough to see that the command line holds; the last of two spellings counts.
SHORT = {
    "generate": ("--steps", "1"),
    "inspect": ("--steps", "2"),
    "edit": ("--steps", "2"),
    "train": ("--dry-run",),
}
FEW_STEPS, OF_A_PAGE = 3, {"docs/pipelines.md": 4}
"""In place of a model's own, where a page's Python leaves them to it: enough to see it run."""


def commands() -> list[str]:
    return [command for block in blocks("bash") for command in block.commands()]


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


def test_the_readme_has_blocks_to_run() -> None:
    assert list(blocks("bash", page="README.md"))
    assert list(blocks("python", page="README.md"))


def option_names(command: str) -> set[tuple[str, ...]]:
    """Each option of a command with the command's name; make and others are their own."""
    words = shlex.split(command, comments=True)
    if words[0] != "t2i":
        return {(command,)}
    name = tuple(words[: 3 if words[1] in ("lora", "data") else 2])
    return {name} | {(*name, word) for word in words if word.startswith("-")}


def runnable() -> Iterator[Any]:
    """All commands; those whose options occur together with earlier ones are long.

    That each of these can be typed is a test of its own (test_named_commands.py).
    """
    seen: set[tuple[str, ...]] = set()
    for command in sorted(set(commands()), key=lambda line: (-len(option_names(line)), line)):
        new = option_names(command) - seen
        seen |= new
        yield command if new else pytest.param(command, marks=pytest.mark.long)


@pytest.mark.parametrize("command", [*runnable()])
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
        for name in ("configs", "docs"):
            (tmp_path / name).symlink_to(REPO / name)
        monkeypatch.chdir(tmp_path)
        if words[1] == "show" or "--from" in words:
            # The reader has made the picture a line before.
            (made,) = (word for word in words if word.endswith(".png"))
            assert main(["generate", "a cat", "--out", made, "--steps", "1"]) == 0
        # Of one step no share is left that a picture could be enlarged with.
        short = () if "--upscale" in words else SHORT.get(words[1], ())
        assert main([*words[1:], *short]) == 0
    elif words[:2] == ["accelerate", "launch"]:
        assert words[words.index("-m") + 1] == "train"
        assert (REPO / words[words.index("-m") + 2]).is_file()
    else:
        assert command.startswith(TAKEN_ON_TRUST), f"no way to check {command!r} yet: add one here"


def test_commands_that_follow_on_one_another_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = ["generate", "a strawberry", "--num", "4", "--out", "strawberries", "--steps", "1"]
    assert main(made) == 0
    lines = [
        c for block in blocks("console", page="docs/command-line.md") for c in block.commands()
    ]
    assert lines
    for line in lines:
        assert line.startswith("t2i ")
        assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize(
    "page", sorted({block.page for block in blocks("python")} - RUN_ELSEWHERE.keys())
)
def test_python_in_the_pages_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Pipeline.defaults.fget
    assert own is not None
    steps = {"num_inference_steps": OF_A_PAGE.get(page, FEW_STEPS)}
    monkeypatch.setattr(Pipeline, "defaults", property(lambda pipe: own(pipe) | steps))
    names = {"__name__": "__main__"}  # a page's blocks follow on one another
    for block in blocks("python", page=page):
        exec(compile(block.code, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_links_in_the_pages_lead_to_a_file_and_a_heading_that_are_there(page: str) -> None:
    for link in links(text_of(page)):
        place, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (REPO / page).parent / place if place else REPO / page
        assert target.exists(), f"{page} points to {link}"
        if anchor:
            known = anchors(target.read_text("utf-8"))
            assert anchor in known, f"{page} points to {link}; {target.name} has {sorted(known)}"


def test_anchors_are_those_that_github_makes_of_headings() -> None:
    page = "# A `b` [c](d.md)!\n```\n# no\n```\n## Two, words-here\n## Two, words-here\n"
    assert anchors(page) == {"a-b-c", "two-words-here", "two-words-here-1"}
    assert links("[a](b.md#c) `[d](e)` ![f](g.png)\n```\n[h](i)\n```\n[`j`](k)") == [
        "b.md#c",
        "g.png",
        "k",
    ]


def test_the_site_lists_every_page_and_is_built_from_what_is_here() -> None:
    """The strict build itself is `make docs`."""
    settings = (REPO / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r": ([\w-]+\.md)$", settings, re.MULTILINE))
    pages = {path.name for path in (REPO / "docs").glob("*.md")} - {"embedded.md"}  # of a card
    assert listed == pages | {"readme.md", "tour.md"}
    assert "font: false" in settings  # no page fetches anything from elsewhere


def test_demo_says_what_makes_the_shell_find_t2i() -> None:
    makefile = (REPO / "Makefile").read_text("utf-8")
    (demo,) = re.findall(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    readme = text_of("README.md")
    assert ". $(BIN)/activate" in demo
    assert readme.index(". .venv/bin/activate") < readme.index("t2i generate")


def test_whatever_an_example_draws_is_laid_on_the_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nmake demo\nt2i data show scenes --num 1 --out scene.png\n```\n"
        "```python\nfrom PIL import Image\nkept = Image.new('RGB', (8, 8))\n"
        "kept.save('saved.png')\nseveral = [kept.copy(), kept.copy()]\n```\n"
        "![shown](scene.png)\n"
    )
    monkeypatch.chdir(tmp_path)
    drawn = [label for label, _ in (*examples(str(page)), *illustrations(str(page)))]
    shown, *rest = drawn
    assert shown == "data show scenes --num 1 --out scene.png"
    assert rest == ["kept.save('saved.png')", "kept", "several", "several", "scene.png"]
