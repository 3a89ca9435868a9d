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


def test_a_photo_is_inverted_and_edited_by_its_words(page: Any, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.get_by_label("What does it show?").fill("a rocket above a house")
    page.click("text=Look into it")
    page.wait_for_selector("#photo:has-text('dB')")
    page.wait_for_selector(".wipe:not([hidden])")
    assert page.get_attribute(".picture.source", "src").endswith("photo.png")
    page.wait_for_selector(".word[data-text='house']")
    page.hover(".word[data-text='house'] .word-name")
    page.wait_for_selector(".heat.on")
    page.dblclick(".word[data-text='house'] .word-name")
    page.keyboard.type("tree")
    page.keyboard.press("Enter")
    page.wait_for_selector("#change li:has-text('tree')")
    page.wait_for_selector(".word[data-text='tree']")


def test_a_picture_of_ours_restores_everything(page: Any) -> None:
    page.set_input_files("#file", OPENING)
    page.wait_for_selector("#seed:not(:placeholder-shown)")
    page.wait_for_selector(".word", state="detached")
    assert page.input_value("#prompt") == "a rocket above a house on a blue background"
    assert page.input_value("#seed") == "2"


def test_a_picture_of_a1111_restores_its_settings(page: Any, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(
        "parameters",
        "a fish and a star\nNegative prompt: a dog\n"
        "Steps: 7, Sampler: Euler, CFG scale: 4.5, Seed: 99, Size: 128x128",
    )
    Image.new("RGB", (128, 128)).save(tmp_path / "theirs.png", pnginfo=text)
    page.set_input_files("#file", tmp_path / "theirs.png")
    page.wait_for_selector(".between:has-text('a fish and a star')")
    assert page.input_value("#prompt") == "a fish and a star"
    assert page.input_value("#seed") == "99"
    page.click("summary:has-text('More')")
    assert page.get_by_label("Steps", exact=True).input_value() == "7"
    assert page.get_by_label("Not this").input_value() == "a dog"
    assert page.get_by_label("Sampler").input_value() == "euler"


def test_a_file_that_is_no_picture_is_refused(page: Any, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "no.png")
    assert page.wait_for_selector(".alert[role=alert]").inner_text()
    assert page.locator(".word[data-text='rocket']").count() == 1
