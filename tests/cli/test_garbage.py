"""Python's search for garbage is put off while a command starts, and only then."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from t2i.cli import drawing, garbage
from tests.cli.command import Cli


def test_garbage_is_searched_seldom_until_the_work_begins() -> None:
    usual = gc.get_threshold()
    assert usual == garbage.USUAL
    with garbage.searched_seldom():
        assert gc.get_threshold()[0] == garbage.SELDOM
        garbage.search_as_usual()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0


def test_a_command_that_fails_leaves_it_as_it_was(cli: Cli) -> None:
    usual = gc.get_threshold()
    assert cli("generate", "a cat", "--model", "nowhere").code == 3
    assert gc.get_threshold() == usual


def test_pictures_are_drawn_with_the_usual_search(
    generate: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    sample = drawing.settings_of

    def looking(*arguments: object) -> dict[str, object]:
        seen.append(gc.get_threshold())
        return sample(*arguments)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(drawing, "settings_of", looking)
    assert generate("--out", Path("cat.png")).code == 0
    assert seen == [garbage.USUAL]
    assert gc.get_freeze_count() == 0


def test_nothing_is_searched_when_the_process_ends() -> None:
    ending = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 10_000))"
    program = f"{ending}; import sys; from t2i.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
