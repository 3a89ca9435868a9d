"""The prompt, and drawing a picture of it."""

from typing import Any

import pytest

from tests.server.page.conftest import STEPS

pytestmark = pytest.mark.slow


def test_the_page_opens_with_a_picture_whose_words_are_alive(page: Any) -> None:
    page.hover(".word[data-text='house'] .word-name")
    page.wait_for_selector(".heat.on")
    assert page.evaluate("document.querySelector('.picture:not(.source)').naturalWidth") == 128
    assert page.locator(".alert").count() == 0


def test_typing_tells_words_and_tokens(page: Any) -> None:
    page.fill("#prompt", "a rocket and a zeppelin")
    # The vocabulary does not have the last word: its parts are shown.
    page.wait_for_selector("#tokens:has-text('5 words, 9 tokens (z·e·pp·el·in)')")


def test_words_that_fall_off_are_struck_through(page: Any) -> None:
    page.fill("#prompt", "cat " * 40 + "rocket")
    page.wait_for_selector("#tokens:has-text('in 2 windows')")
    assert page.locator(".behind s").count() == 0
    page.fill("#prompt", "cat " * 32 * 30 + "rocket")
    page.wait_for_selector("#tokens:has-text('One word does not fit')")
    assert page.locator(".behind s").all_inner_texts() == ["rocket"]


def test_ctrl_up_and_down_weigh_the_word_at_the_cursor(page: Any) -> None:
    page.fill("#prompt", "a cat and a balloon")
    page.evaluate("document.querySelector('#prompt').setSelectionRange(3, 3)")
    page.keyboard.press("Control+ArrowUp")
    page.keyboard.press("Control+ArrowUp")
    assert page.input_value("#prompt") == "a (cat:1.2) and a balloon"
    page.keyboard.press("Control+ArrowDown")
    page.keyboard.press("Control+ArrowDown")
    assert page.input_value("#prompt") == "a cat and a balloon"
    page.keyboard.press("Control+ArrowDown")
    assert page.input_value("#prompt") == "a (cat:0.9) and a balloon"


def test_drawing_shows_the_seed_and_the_steps(drawn: Any) -> None:
    assert drawn.input_value("#seed") == "3"
    drawn.wait_for_selector("#scrubber:not([hidden])")
    assert drawn.get_attribute("#scrubber input", "max") == str(STEPS + 1)
    newest = drawn.locator(".strip li button").first
    assert newest.get_attribute("aria-current") == "true"


def test_the_same_seed_draws_the_same_picture(drawn: Any) -> None:
    first = drawn.get_attribute(".picture:not(.source)", "src")
    drawn.click(".draw")
    drawn.wait_for_selector(f".picture:not(.source):not([src='{first}']):not([src^='data:'])")
    second = drawn.get_attribute(".picture:not(.source)", "src")
    read = drawn.request.get
    assert read(first).body() == read(second).body()


def test_a_running_picture_can_be_stopped(page: Any) -> None:
    page.click("summary:has-text('More')")
    page.get_by_label("Steps", exact=True).fill("500")
    page.click(".draw")
    page.wait_for_selector(".draw.stop")
    page.click(".draw.stop")
    page.wait_for_selector("#status:has-text('Stopped')")
    page.wait_for_selector(".draw:not(.stop)")
    assert page.locator(".word[data-text='rocket']").count() == 1
    assert page.locator(".alert").count() == 0


def test_an_error_says_what_to_do_and_loses_nothing(page: Any) -> None:
    page.fill("#prompt", "a cat (unclosed")
    page.click("summary:has-text('More')")
    page.get_by_label("Steps", exact=True).fill("100000")
    page.click(".draw")
    alert = page.wait_for_selector(".alert[role=alert]")
    assert "expected" in alert.inner_text()
    assert page.input_value("#prompt") == "a cat (unclosed"
    assert page.locator(".word[data-text='rocket']").count() == 1
    page.click(".alert button")
    assert page.locator(".alert").count() == 0


def test_an_empty_prompt_is_refused_with_an_example(page: Any) -> None:
    page.fill("#prompt", " ")
    page.click(".draw")
    assert "such as" in page.wait_for_selector(".alert").inner_text()
