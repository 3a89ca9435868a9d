"""The tab of training runs."""

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_the_tab_shows_loss_and_validation_of_a_run(page: Any) -> None:
    page.click("#tab-training")
    page.wait_for_selector(".run .chart")
    assert page.locator(".runs button").first.inner_text().startswith("cats")
    assert "0.05" in page.inner_text(".run .facts")
    assert page.locator(".chart .point").count() == 1
    assert "at step 40" in page.get_attribute(".chart", "aria-label")


def test_the_tabs_are_walked_by_the_arrow_keys(page: Any) -> None:
    page.focus("#tab-picture")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-training:not([hidden])")
    assert page.locator("#panel-picture").is_hidden()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#panel-picture").is_visible()
