"""The keyboard: what Tab reaches is visible, in reading order, and the same in both directions."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.sweeps import sweep

pytestmark = pytest.mark.slow
CAR = Path(__file__).parents[3] / "docs" / "images" / "car.webp"

INVISIBLE = """() => [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter((element) => element.tabIndex >= 0 && !element.disabled && !element.matches(".skip"))
  .filter((element) => element.checkVisibility({ visibilityProperty: true }))
  .filter((element) => {
    const box = element.getBoundingClientRect();
    return !element.checkVisibility({ opacityProperty: true }) || box.width < 4 || box.height < 4;
  })
  .map((element) => element.outerHTML.slice(0, 120))"""
"""What takes the focus and cannot be seen; what is hidden by its style takes none."""

WALK = """() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  window.walked ??= [];
  element.scrollIntoView({ block: "nearest", inline: "nearest" });
  const box = element.getBoundingClientRect();
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const fault = !seen || box.width < 4 || box.height < 4 ? "invisible"
    : top && (element.contains(top) || top.contains(element)) ? null : "covered";
  const known = window.walked.indexOf(element);
  if (known < 0) window.walked.push(element);
  const place = known < 0 ? window.walked.length - 1 : known;
  return [place, fault && `${fault}: ${element.outerHTML.slice(0, 120)}`];
}"""

OUT_OF_ORDER = """() => {
  const section = (element) => element.closest(
    ".word, .seeds, .keep-row, .frame, form, section, header, nav");
  const outermost = (element) => element.closest(".bar, .easel, .card, .past, .alerts");
  const parts = window.walked.filter((element) => !element.matches(".skip"));
  const faults = [];
  parts.forEach((element, place) => {
    const next = parts[place + 1];
    if (!next || outermost(next) !== outermost(element)) return;
    if (section(next) !== section(element)) return;
    const [one, other] = [element, next].map((one) => one.getBoundingClientRect());
    const right = other.left >= one.left && other.bottom > one.top;
    const below = other.top >= one.bottom - 2;
    if (right || below) return;
    faults.push(`${element.outerHTML.slice(0, 90)} before ${next.outerHTML.slice(0, 90)}`);
  });
  const order = [".bar", ".easel", ".side", ".past"];
  const places = parts.map((element) => order.findIndex((name) => element.closest(name)))
    .filter((place) => place >= 0);
  if (places.some((place, at) => at && place < places[at - 1])) faults.push("parts of the page");
  return faults;
}"""
"""Neighbours of one part of the page of which the later stands above, or before on its line."""


def walk(page: Any, key: str) -> list[int]:
    """The elements that a key leads to, one after the other, each by a number of its own."""
    found = []
    for _ in range(200):
        page.keyboard.press(key)
        step = page.evaluate(WALK)
        if step is None:
            return found
        number, fault = step
        assert fault is None
        found.append(number)
    raise AssertionError("the focus never leaves the page")


def assert_focus_is_in_order(page: Any) -> None:
    assert page.evaluate(INVISIBLE) == []
    page.evaluate("window.walked = undefined; document.activeElement.blur()")
    page.focus(".skip")
    page.keyboard.press("Shift+Tab")
    forward = walk(page, "Tab")
    assert len(forward) > 12
    assert page.evaluate(OUT_OF_ORDER) == []
    assert walk(page, "Shift+Tab") == forward[::-1]


# One width each; `make test-all` has both.
@pytest.mark.parametrize("width", sweep([400, 1400], quick=[400]))
def test_what_tab_reaches_is_visible_and_in_reading_order(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.click("summary:has-text('More')")
    assert_focus_is_in_order(page)
    page.click("#tab-training")
    page.wait_for_selector(".run .chart")
    assert page.evaluate(INVISIBLE) == []


def test_so_it_is_with_an_edit_a_mask_a_box_and_a_photo_on_the_page(
    drawn: Any, tmp_path: Path
) -> None:
    photo = tmp_path / "car.jpg"
    Image.open(CAR).convert("RGB").save(photo)
    drawn.locator(".word[data-text='cat'] .weight").fill("0.5")
    drawn.wait_for_selector(".wipe:not([hidden])")
    drawn.wait_for_selector("#frame:not(.busy)")
    drawn.click("#change summary:has-text('How')")
    drawn.click(".word[data-text='cat'] .word-name")
    drawn.click("#reading >> text=Mask")
    assert_focus_is_in_order(drawn)
    drawn.click("#mask >> text=Close")
    drawn.click("#reading >> text=Place")
    assert drawn.evaluate(INVISIBLE) == []
    drawn.keyboard.press("Escape")
    drawn.set_input_files("#file", photo)
    drawn.wait_for_selector("#photo:not([hidden])")
    assert_focus_is_in_order(drawn)


def test_a_little_word_is_weighed_by_the_keyboard(drawn: Any) -> None:
    slider = drawn.locator(".word[data-text='and'] .weight")
    assert slider.evaluate("slider => slider.tabIndex") == -1
    assert not slider.is_visible()
    drawn.focus(".word[data-text='and'] .word-name")
    drawn.keyboard.press("ArrowDown")
    assert slider.evaluate(
        "slider => slider === document.activeElement && slider.checkVisibility()"
    )
    drawn.keyboard.press("Escape")
    assert drawn.evaluate("document.activeElement.textContent") == "and"
    drawn.keyboard.press("ArrowDown")
    drawn.keyboard.press("ArrowRight")
    drawn.wait_for_selector("#change li:has-text('and')")
    drawn.wait_for_selector(".wipe:not([hidden])")
    drawn.wait_for_selector("#scrubber input:enabled")
    assert slider.evaluate("slider => slider === document.activeElement")
    # Now it stays visible, and Tab reaches it.
    drawn.focus("#prompt")
    assert slider.is_visible()
    assert slider.evaluate("slider => slider.tabIndex") == 0


@pytest.mark.parametrize("width", sweep([400, 1400], quick=[1400]))
def test_nothing_moves_under_a_word_that_is_pointed_at(page: Any, width: int) -> None:
    """At the end of a scrolled page, numbers of other height would draw the word away."""
    page.set_viewport_size({"width": width, "height": 500})
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    name = page.locator(".word[data-text='house'] .word-name")
    name.scroll_into_view_if_needed()
    before = name.bounding_box()
    name.hover()
    page.wait_for_selector("#reading b")
    assert name.bounding_box() == before
    name.click()
    page.wait_for_selector("#reading >> text=Unpin")
    assert name.bounding_box() == before


@pytest.mark.parametrize("width", sweep([400, 1400], quick=[400]))
def test_the_ranks_lie_within_the_picture(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    frame = page.locator("#frame")
    room = frame.bounding_box()
    for x in (0.02, 0.4, 0.55, 0.62, 0.98):
        for y in (0.02, 0.5, 0.62, 0.98):
            frame.hover(position={"x": room["width"] * x, "y": room["height"] * y})
            box = page.locator(".ranks").bounding_box()
            assert box["x"] >= room["x"] - 1
            assert box["y"] >= room["y"] - 1
            assert box["x"] + box["width"] <= room["x"] + room["width"] + 1
            assert box["y"] + box["height"] <= room["y"] + room["height"] + 1
