"""What docs/photos.md and docs/bulk.md tell of recorded photos works, line after line."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from docs.pages import blocks
from tests.cli.command import Cli, prompts_runner


@pytest.fixture
def photos(photo: Path) -> None:
    """The photo of the pages, in a folder of its own."""
    Image.open(photo).convert("RGB").save("cat.jpg")


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_the_commands_of_the_page_run(cli: Cli, model: Path) -> None:
    """One after the other, as a reader types them; the tiny model stands for a real one."""
    commands = [c for block in blocks("console", page="docs/photos.md") for c in block.commands()]
    assert {shlex.split(c)[1] for c in commands} == {"invert", "edit", "inspect"}
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "t2i"
        if "--source" not in words:
            words += ["--model", str(model), "--steps", "2"]
        done = cli(*words)
        assert done.code == 0, f"{command}\n{done.err}"


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_the_lines_of_the_page_on_prompts_files_run(cli: Cli, model: Path) -> None:
    (lines,) = (
        block.commands() for block in blocks("", page="docs/bulk.md") if '"inspect"' in block.code
    )
    named = {key for line in lines for key in json.loads(line)}
    assert {"task", "words", "source", "source_folder", "record", "invert"} <= named
    settings = ("--model", model, "--steps", "2", "--out", "bulk/cat")
    assert cli("invert", "cat.jpg", "a cat on a sofa", *settings).code == 0
    done = prompts_runner(cli, model, steps=2)(*map(json.loads, lines))
    assert done.code == 0, Path("out/index.jsonl").read_text()


def test_no_block_of_the_page_is_left_untested() -> None:
    """Python and bash run in tests/repo/test_readme.py, the rest above."""
    for page in ("docs/photos.md",):
        assert not list(blocks("", "text", "sh", page=page))
