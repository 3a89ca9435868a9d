"""A photo of the user's own, and pictures with metadata."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

OPENING = Path(__file__).parents[3] / "t2i" / "server" / "page" / "opening" / "seed-2.png"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo without metadata."""
    path = tmp_path / "photo.jpg"
    Image.open(OPENING).convert("RGB").resize((200, 160)).save(path)
    return path


@pytest.mark.usefixtures("_quick_inversions")
def test_a_photo_is_inverted_and_edited_by_its_words(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.get_by_label("What does it show?").fill("a rocket above a house")
    page.click("text=Look into it")
    page.wait_for_selector("#photo:has-text('dB')")
    page.wait_for_selector(".wipe:not([hidden])")
    assert page.get_attribute(".picture.source", "src").endswith("photo.png")
    assert page.inner_text(".draw") == "Draw without the photo"
    page.wait_for_selector(".word[data-text='house']")
    page.hover(".word[data-text='house'] .word-name")
    page.wait_for_selector(".heat.on")
    finished = page.evaluate("document.querySelector('.heat').toDataURL()")
    page.locator("#scrubber input").fill("1")
    assert page.get_attribute(".picture:not(.source)", "src").startswith("blob:")
    page.hover(".word[data-text='rocket'] .word-name")
    page.hover(".word[data-text='house'] .word-name")
    assert page.evaluate("document.querySelector('.heat').toDataURL()") != finished
    page.dblclick(".word[data-text='house'] .word-name")
    page.keyboard.type("tree")
    page.keyboard.press("Enter")
    page.wait_for_selector("#change li:has-text('tree')")
    page.wait_for_selector(".word[data-text='tree']")
    assert page.inner_text(".draw") == "Draw"
    # Source and target have pictures and maps of each step, and say how far they are apart.
    page.wait_for_selector("#scrubber:not([hidden])")
    page.locator("#scrubber input").fill("2")
    assert page.get_attribute(".picture.source", "src").startswith("blob:")
    assert page.get_attribute(".picture:not(.source)", "src").startswith("blob:")
    assert "apart" in page.inner_text(".apart")


def test_a_picture_of_ours_restores_everything(page: Any) -> None:
    page.set_input_files("#file", OPENING)
    page.wait_for_selector("#seed:not(:placeholder-shown)")
    page.wait_for_selector(".word", state="detached")
    assert page.input_value("#prompt") == "a rocket above a house on a blue background"
    assert page.input_value("#seed") == "2"


def test_a_file_that_is_no_picture_is_refused(page: Any, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "no.png")
    assert page.wait_for_selector(".alert[role=alert]").inner_text()
    assert page.locator(".word[data-text='rocket']").count() == 1
