"""The tab of training runs."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def test_the_tab_shows_loss_and_validation_of_a_run(page: Any) -> None:
    page.click("#tab-training")
    page.wait_for_selector(".run .chart")
    assert page.locator(".runs button").first.inner_text().startswith("cats")
    assert "0.05" in page.inner_text(".run .facts")
    assert page.locator(".chart .point").count() == 1
    assert "at step 40" in page.get_attribute(".chart", "aria-label")


def test_sheets_are_shown_the_newest_first_and_come_while_one_looks(
    page: Any, runs_folder: Path
) -> None:
    page.click("#tab-training")
    page.wait_for_selector(".sheets img")
    names = page.locator(".sheets figcaption").all_inner_texts()
    assert names == ["step-40.png", "step-20.png"]
    image = page.locator(".sheets img").first
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") == 256
    late = runs_folder / "cats" / "samples" / "step-60.png"
    Image.new("RGB", (128, 64), "green").save(late)
    try:
        page.wait_for_selector(".sheets figcaption:has-text('step-60')")
    finally:
        late.unlink()


def test_the_tabs_are_walked_by_the_arrow_keys(page: Any) -> None:
    page.focus("#tab-picture")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-training:not([hidden])")
    assert page.locator("#panel-picture").is_hidden()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#panel-picture").is_visible()
