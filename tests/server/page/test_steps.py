"""The scrubber over the steps."""

from typing import Any

import pytest

pytestmark = pytest.mark.slow

NOTE_STEP_5 = """() => {
  const note = () => {
    if (document.querySelector("#scrubber .step").textContent.includes("step 5"))
      document.body.dataset.noted = "";
  };
  const watched = { childList: true, characterData: true, subtree: true };
  new MutationObserver(note).observe(document.querySelector("#scrubber"), watched);
}"""
"""On a busy machine a step is gone before one looks for it."""
PICTURE = ".picture:not(.source)"


def test_the_scrubber_shows_picture_and_maps_of_a_step(page: Any) -> None:
    finished = page.get_attribute(PICTURE, "src")
    page.wait_for_selector("#scrubber:not([hidden])")
    page.hover(".word[data-text='rocket'] .word-name")
    overlay = page.evaluate("document.querySelector('.heat').toDataURL()")
    page.locator("#scrubber input").fill("1")
    assert page.inner_text("#scrubber .step") == "step 1 / 10"
    assert page.get_attribute(PICTURE, "src") != finished
    page.hover(".word[data-text='house'] .word-name")
    page.hover(".word[data-text='rocket'] .word-name")
    assert page.evaluate("document.querySelector('.heat').toDataURL()") != overlay
    page.locator("#scrubber input").fill("11")
    assert page.inner_text("#scrubber .step") == "finished"
    assert page.get_attribute(PICTURE, "src") == finished


def test_playing_ends_with_the_finished_picture(page: Any) -> None:
    page.evaluate(NOTE_STEP_5)
    page.click("[aria-label='Play the steps']")
    page.wait_for_selector("body[data-noted]")
    page.wait_for_selector("#scrubber .step:has-text('finished')")
    page.wait_for_selector("[aria-label='Play the steps']")


def test_source_and_edit_say_where_their_paths_part(drawn: Any) -> None:
    drawn.locator(".word[data-text='balloon'] .weight").fill("1")
    drawn.wait_for_selector(".wipe:not([hidden])")
    drawn.wait_for_selector(".paths")
    assert "part" in drawn.get_attribute(".paths", "aria-label")
    drawn.hover(".word[data-text='cat'] .word-name")
    whole = drawn.evaluate("document.querySelector('.heat').toDataURL()")
    drawn.locator("#scrubber input").fill("1")
    drawn.hover(".word[data-text='balloon'] .word-name")
    drawn.hover(".word[data-text='cat'] .word-name")
    assert drawn.evaluate("document.querySelector('.heat').toDataURL()") != whole
    for picture in (PICTURE, ".picture.source"):
        assert drawn.get_attribute(picture, "src").startswith("blob:")
    drawn.locator("#scrubber input").fill("2")
    assert "apart" in drawn.inner_text(".apart")
