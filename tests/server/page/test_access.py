"""The page for everybody: widths, themes, names for screen readers."""

from typing import Any

import pytest

from tests.sweeps import sweep

pytestmark = pytest.mark.slow

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, [role=slider]")]
  .filter((element) => element.checkVisibility())
  .filter((element) => !(element.getAttribute("aria-label") || element.innerText?.trim()
    || element.labels?.length))
  .map((element) => element.outerHTML.slice(0, 120))"""
CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ratio = (element, behind) => {
    const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    const [high, low] = pair.map(light).sort((one, other) => other - one);
    return (high + 0.05) / (low + 0.05);
  };
  const find = (selector) => document.querySelector(selector);
  return {
    words: ratio(find(".word-name"), document.body),
    hint: ratio(find("#reading .hint"), document.body),
    draw: ratio(find(".draw"), find(".draw")),
    tokens: ratio(find("#tokens"), find(".card.prompt")),
  };
}"""


@pytest.mark.parametrize("width", sweep([400, 1400], quick=[400]))
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.click("summary:has-text('More')")
    for tab in ("#tab-picture", "#tab-training"):
        page.click(tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page: Any) -> None:
    page.click("summary:has-text('More')")
    assert page.evaluate(NAMELESS) == []
    page.focus("#frame")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector(f"html[data-theme='{scheme}']")
    page.mouse.move(2, 2)
    page.wait_for_selector("#reading .hint")
    # Colours change over a fifth of a second.
    page.wait_for_timeout(500)
    assert {name: ratio for name, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5} == {}


def test_the_theme_can_be_changed_and_stays(page: Any) -> None:
    before = page.get_attribute("html", "data-theme")
    page.click("#theme")
    after = page.get_attribute("html", "data-theme")
    assert after != before
    page.reload()
    page.wait_for_selector(f"html[data-theme='{after}']")
