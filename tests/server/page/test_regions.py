"""Boxes for words."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
PICTURE = ".picture:not(.source)"


def test_a_word_is_bound_to_the_box_that_is_drawn_for_it(drawn: Any) -> None:
    drawn.click(".word[data-text='cat'] .word-name")
    drawn.click("#reading >> text=Place")
    frame = drawn.locator("#frame").bounding_box()
    drawn.mouse.move(frame["x"] + frame["width"] * 0.55, frame["y"] + frame["height"] * 0.2)
    drawn.mouse.down()
    drawn.mouse.move(
        frame["x"] + frame["width"] * 0.95, frame["y"] + frame["height"] * 0.8, steps=4
    )
    drawn.mouse.up()
    drawn.wait_for_selector("#change li:has-text('cat in its box')")
    drawn.wait_for_selector(".wipe:not([hidden])")
    data = drawn.request.get(drawn.get_attribute(PICTURE, "src")).body()
    assert "regions" in Image.open(BytesIO(data)).info["t2i"]
    # More of what the word reads is in its box than before.
    share = """() => {
      const canvas = document.querySelector(".heat");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let left = 0;
      let right = 0;
      for (let at = 3; at < data.length; at += 4) {
        const x = ((at - 3) / 4) % canvas.width;
        if (x < canvas.width / 2) left += 255 - data[at];
        else right += 255 - data[at];
      }
      return right / (left + right);
    }"""
    drawn.hover(".word[data-text='cat'] .word-name")
    drawn.wait_for_selector(".heat.on")
    assert drawn.evaluate(share) > 0.6
    drawn.click("[aria-label='Take the box of cat away']")
    drawn.wait_for_selector("#change", state="hidden")


def test_the_keyboard_places_a_box_and_escape_leaves_it(page: Any) -> None:
    page.focus(".word[data-text='house'] .word-name")
    page.keyboard.press("Enter")
    page.focus("#reading >> text=Place")
    page.keyboard.press("Enter")
    box = page.locator(".box.new")
    before = box.bounding_box()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    after = box.bounding_box()
    assert after["x"] > before["x"]
    assert after["height"] > before["height"]
    page.keyboard.press("Escape")
    assert page.locator(".box").count() == 0
    assert page.locator("#change").is_hidden()
