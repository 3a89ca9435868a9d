"""Python's search for garbage is put off while a process starts, and only then."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2i.cli.generation import image_generation
from t2i.cli.startup import gc_control as garbage
from t2i.server import running
from tests import process_wide
from tests.cli.command import Cli


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """As in a process of a user's own."""
    gc.unfreeze()
    yield
    process_wide.freeze_imports()


def test_garbage_is_searched_seldom_until_the_work_begins() -> None:
    usual = gc.get_threshold()
    with garbage.delaying_gc():
        assert gc.get_threshold()[0] == garbage.STARTUP_THRESHOLD
        garbage.end_gc_delay_and_freeze()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0


def test_a_server_searches_its_garbage_as_usual(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives for weeks, and loads no model in its own process."""
    seen = []
    monkeypatch.setattr(running, "run_server", lambda *_, **__: seen.append(gc.get_threshold()))
    usual = gc.get_threshold()
    with garbage.delaying_gc():
        assert cli("serve").code == 0
    assert seen == [usual]


def test_a_process_that_searches_as_it_chose_goes_on_so(
    generate: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    settings_of = image_generation.build_sampling_and_control_arguments

    def looking(*arguments: object) -> dict[str, object]:
        seen.append((gc.get_threshold(), gc.get_freeze_count()))
        return settings_of(*arguments)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(image_generation, "build_sampling_and_control_arguments", looking)
    usual = gc.get_threshold()
    gc.set_threshold(1234, 5, 6)
    try:
        assert generate("--out", Path("cat.png")).code == 0
        assert seen == [((1234, 5, 6), 0)]
        assert gc.get_threshold() == (1234, 5, 6)
    finally:
        gc.set_threshold(*usual)


def test_nothing_is_searched_when_the_process_ends() -> None:
    ending = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 10_000))"
    program = f"{ending}; import sys; from t2i.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
