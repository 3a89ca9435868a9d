"""Changing the picture by its words."""

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

PICTURE = ".picture:not(.source)"
QUIET = "#frame:not(.busy)"


def weigh(page: Any, word: str, position: float) -> None:
    page.locator(f".word[data-text='{word}'] .weight").fill(str(position))


def test_a_slider_weighs_its_word_in_the_picture(drawn: Any) -> None:
    source = drawn.get_attribute(PICTURE, "src")
    weigh(drawn, "balloon", -1)
    drawn.wait_for_selector("#change li:has-text('balloon \u00d70')")
    drawn.wait_for_selector(".wipe:not([hidden])")
    assert drawn.get_attribute(".picture.source", "src") == source
    read = drawn.request.get
    assert read(drawn.get_attribute(PICTURE, "src")).body() != read(source).body()


def test_of_several_requests_the_last_one_wins(drawn: Any) -> None:
    for position in (-1, -0.5, 0.5, 1):
        weigh(drawn, "cat", position)
        drawn.wait_for_timeout(200)
    drawn.wait_for_selector(QUIET)
    drawn.wait_for_selector(".wipe:not([hidden])")
    assert drawn.locator("#change li").all_inner_texts() == ["cat \u00d73"]
    assert drawn.locator(".alert").count() == 0


def test_the_middle_of_the_slider_is_the_source_again(drawn: Any) -> None:
    source = drawn.get_attribute(PICTURE, "src")
    weigh(drawn, "cat", 0.5)
    drawn.wait_for_selector(".wipe:not([hidden])")
    weigh(drawn, "cat", 0)
    drawn.wait_for_selector(".wipe[hidden]", state="attached")
    assert drawn.get_attribute(PICTURE, "src") == source


def test_a_word_typed_over_one_swaps_it(drawn: Any) -> None:
    drawn.dblclick(".word[data-text='cat'] .word-name")
    drawn.keyboard.type("dog")
    drawn.keyboard.press("Enter")
    drawn.wait_for_selector(".word[data-text='dog']")
    assert drawn.inner_text("#change del") == "cat"
    assert drawn.inner_text("#change ins") == "dog"
    assert drawn.input_value("#prompt") == "a dog and a balloon"
    drawn.click("text=Back to the source")
    drawn.wait_for_selector(".word[data-text='cat']")
    assert drawn.input_value("#prompt") == "a cat and a balloon"


def test_the_keyboard_swaps_too_and_escape_leaves_the_word(drawn: Any) -> None:
    drawn.focus(".word[data-text='cat'] .word-name")
    drawn.keyboard.press("F2")
    drawn.keyboard.type("dog")
    drawn.keyboard.press("Escape")
    assert drawn.locator(".word[data-text='cat'] .word-name").inner_text() == "cat"
    assert drawn.locator("#change").is_hidden()


def test_the_wipe_is_moved_by_the_keyboard_and_by_the_pointer(drawn: Any) -> None:
    weigh(drawn, "cat", 1)
    handle = drawn.wait_for_selector(".wipe:not([hidden])")
    handle.focus()
    drawn.keyboard.press("Home")
    assert handle.get_attribute("aria-valuenow") == "0"
    drawn.keyboard.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "2"
    frame = drawn.locator("#frame").bounding_box()
    box = handle.bounding_box()
    drawn.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    drawn.mouse.down()
    drawn.mouse.move(frame["x"] + frame["width"] * 0.75, frame["y"] + 50, steps=3)
    drawn.mouse.up()
    assert abs(int(handle.get_attribute("aria-valuenow")) - 75) <= 1
    assert "75" in drawn.evaluate("document.querySelector('.picture:not(.source)').style.clipPath")


def test_the_windows_of_an_edit_can_be_changed(drawn: Any) -> None:
    weigh(drawn, "cat", 1)
    drawn.wait_for_selector(".wipe:not([hidden])")
    first = drawn.get_attribute(PICTURE, "src")
    drawn.click("#change summary")
    field = drawn.get_by_label("Layout kept from the source")
    field.fill("0.5")
    field.dispatch_event("change")
    drawn.wait_for_selector(f"{PICTURE}:not([src='{first}'])")
    drawn.click("text=Request")
    assert '"self_replace"' in drawn.inner_text("dialog pre")


def test_edits_are_limited_to_the_place_of_a_word(drawn: Any) -> None:
    drawn.click(".word[data-text='cat'] .word-name")
    drawn.click("#reading >> text=Mask")
    drawn.click("text=Edit only here")
    drawn.dblclick(".word[data-text='cat'] .word-name")
    drawn.keyboard.type("dog")
    drawn.keyboard.press("Enter")
    drawn.wait_for_selector(".word[data-text='dog']")
    drawn.wait_for_selector("#frame:not(.busy)")
    assert drawn.locator(".alert").count() == 0
    data = drawn.request.get(drawn.evaluate(f"document.querySelector('{PICTURE}').src")).body()
    request = json.loads(Image.open(BytesIO(data)).info["t2i"])["request"]
    (blend,) = [one for one in request["edited"]["edits"] if one["edit"] == "local-blend"]
    assert blend["words"] == [["cat"], ["dog"]]
    drawn.click("#change summary:has-text('How')")
    assert drawn.get_by_label("Changes", exact=True).input_value() == "cat"


def test_a_lora_is_drawn_with_and_stays_with_its_picture(drawn: Any) -> None:
    plain = drawn.get_attribute(PICTURE, "src")
    drawn.click("summary:has-text('More')")
    drawn.get_by_role("slider", name="ink").fill("0.5")
    drawn.click(".draw")
    drawn.wait_for_selector(f"{PICTURE}:not([src='{plain}'])")
    drawn.wait_for_selector("#frame:not(.busy)")
    address = drawn.evaluate(f"document.querySelector('{PICTURE}').src")
    record = Image.open(BytesIO(drawn.request.get(address).body())).info["t2i"]
    (lora,) = json.loads(record)["request"]["loras"]
    assert lora["scale"] == 0.5
    assert lora["path"].endswith("ink.safetensors")
    drawn.click("text=Command")
    assert "ink.safetensors:0.5" in drawn.inner_text("dialog pre")
    drawn.click("dialog >> text=Close")
    # The slider follows the form: the picture before was drawn without.
    drawn.click(".strip li:nth-child(2) button")
    drawn.wait_for_selector(f"{PICTURE}[src='{plain}']")
    drawn.wait_for_selector("#loras output:text-is('off')")
    assert drawn.get_by_role("slider", name="ink").input_value() == "0"
