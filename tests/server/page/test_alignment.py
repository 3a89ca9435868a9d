"""The alignment of the words of source and edit, corrected by hand."""

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from tests.server.servers import run_in_thread

pytestmark = pytest.mark.slow
PICTURE = ".picture:not(.source)"


@pytest.fixture
def swapped(drawn: Any) -> Any:
    """The page with a cat that was swapped for a big dog, and the alignment of the words shown."""
    drawn.dblclick(".word[data-text='cat'] .word-name")
    drawn.keyboard.type("big dog")
    drawn.keyboard.press("Enter")
    drawn.wait_for_selector(".word[data-text='dog']")
    drawn.click("summary:has-text('Alignment')")
    return drawn


def test_a_word_of_the_edit_is_given_another_origin(swapped: Any, tmp_path: Path) -> None:
    names = swapped.locator(".aligned button").evaluate_all(
        "buttons => buttons.map((button) => button.getAttribute('aria-label'))"
    )
    assert names == [
        "a: from a",
        "big: new",
        "dog: new",
        "and: from and",
        "a: from a",
        "balloon: from balloon",
    ]
    first = swapped.get_attribute(PICTURE, "src")
    swapped.click(".aligned [data-word='dog']")
    swapped.click(".origins button:has-text('cat')")
    swapped.wait_for_selector("[aria-label='dog: from cat, by hand']")
    source = swapped.get_attribute(PICTURE, "src")
    assert source != first
    # The command draws the same picture, up to the rounding of source and target in one batch: the
    # page's edits are of a recorded source. tests/server/test_jobs.py compares the same request.
    swapped.click("text=Command")
    command = shlex.split(swapped.inner_text("dialog pre"))
    assert command[-2:] == ["--align", "dog=cat"]
    out = tmp_path / "e.png"
    assert run_in_thread(lambda: main([*command[1:], "--out", str(out)])) == 0
    data = swapped.request.get(swapped.evaluate(f"document.querySelector('{PICTURE}').src")).body()
    drawn = Image.open(io.BytesIO(data))
    assert "alignment" in drawn.info["t2i"]
    commanded = Image.open(tmp_path / "e-target.png")
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(commanded)).max() <= 1
    swapped.click("dialog >> text=Close")
    swapped.click("text=Automatic again")
    swapped.wait_for_selector("[aria-label='dog: new']")


def test_the_keyboard_corrects_the_alignment_and_undo_takes_it_back(swapped: Any) -> None:
    first = swapped.get_attribute(PICTURE, "src")
    swapped.focus(".aligned [data-word='dog']")
    swapped.keyboard.press("Enter")
    assert swapped.evaluate("document.activeElement.textContent") == "new"
    swapped.keyboard.press("Escape")
    assert swapped.evaluate("document.activeElement.dataset.word") == "dog"
    assert swapped.locator(".origins").count() == 0
    swapped.keyboard.press("Enter")
    for _ in range(4):
        swapped.keyboard.press("Shift+Tab")
    assert swapped.evaluate("document.activeElement.textContent") == "cat"
    swapped.keyboard.press("Enter")
    swapped.wait_for_selector("[aria-label='dog: from cat, by hand']")
    # A reload shows it again, and undo leads back.
    swapped.reload()
    swapped.wait_for_selector("[aria-label='dog: from cat, by hand']", state="attached")
    swapped.click("[aria-label='Undo']")
    swapped.wait_for_selector(f"{PICTURE}[src='{first}']")


def test_corrections_of_words_that_are_gone_are_left_out(swapped: Any) -> None:
    swapped.click(".aligned [data-word='dog']")
    swapped.click(".origins button:has-text('cat')")
    swapped.wait_for_selector("[aria-label='dog: from cat, by hand']")
    swapped.dblclick(".word[data-text='dog'] .word-name")
    swapped.keyboard.type("tree")
    swapped.keyboard.press("Enter")
    swapped.wait_for_selector(".word[data-text='tree']")
    swapped.wait_for_selector("#frame:not(.busy)")
    assert swapped.locator(".alert").count() == 0
    assert swapped.locator(".aligned .corrected").count() == 0
