"""History, undo, copies and downloads."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server.page.conftest import STEPS

pytestmark = pytest.mark.slow


def test_history_and_picture_survive_a_reload(drawn: Any) -> None:
    count = drawn.locator(".strip li").count()
    drawn.reload()
    drawn.wait_for_selector(".word[data-text='balloon']")
    assert drawn.locator(".strip li").count() == count
    assert drawn.input_value("#prompt") == "a cat and a balloon"
    drawn.locator(".strip li").last.locator("button").click()
    drawn.wait_for_selector(".word[data-text='rocket']")


def test_undo_and_redo_go_through_the_pictures(drawn: Any) -> None:
    drawn.click("[aria-label='Undo']")
    drawn.wait_for_selector(".word[data-text='rocket']")
    drawn.click("[aria-label='Redo']")
    drawn.wait_for_selector(".word[data-text='balloon']")
    drawn.focus("#frame")
    drawn.keyboard.press("Control+z")
    drawn.wait_for_selector(".word[data-text='rocket']")


def test_what_is_on_screen_is_copied_as_command_python_and_request(drawn: Any) -> None:
    for name, expected in (
        ("Command", "t2i generate 'a cat and a balloon'"),
        ("Python", "a cat and a balloon"),
        ("Request", '"kind": "generate"'),
    ):
        drawn.click(f"#keep >> text={name}")
        text = drawn.wait_for_selector("dialog[open] pre").inner_text()
        assert expected in text
        assert str(STEPS) in text
        drawn.click("dialog >> text=Close")


def test_the_picture_is_downloaded_with_its_metadata(drawn: Any, tmp_path: Path) -> None:
    with drawn.expect_download() as download:
        drawn.click("#save-picture")
    download.value.save_as(tmp_path / "picture.png")
    assert "a cat and a balloon" in Image.open(tmp_path / "picture.png").info["parameters"]


def test_the_steps_are_downloaded_as_an_animation(drawn: Any, tmp_path: Path) -> None:
    drawn.wait_for_selector("#save-steps:not([disabled])")
    with drawn.expect_download() as download:
        drawn.click("#save-steps")
    download.value.save_as(tmp_path / "steps.png")
    with Image.open(tmp_path / "steps.png") as animation:
        assert animation.n_frames == STEPS + 1
        animation.seek(STEPS)
        animation.load()
        assert animation.size == (256, 256)


def test_the_maps_are_downloaded_exactly(drawn: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    drawn.wait_for_selector("#save-maps:not([disabled])")
    with drawn.expect_download() as download:
        drawn.click("#save-maps")
    download.value.save_as(tmp_path / "maps.safetensors")
    assert load_file(tmp_path / "maps.safetensors")["cat"].shape == (8, 8)


def test_the_strip_of_history_is_scrolled_to_the_picture_on_screen(page: Any) -> None:
    files = [{"name": "seed-1.png", "width": 64, "height": 64, "seed": 1}]
    done = {"kind": "generate", "state": "done", "request": {"prompt": "a cat"}, "seeds": [1]}
    jobs = [
        {"id": f"{number:022d}", **done, "result": {"files": files, "data": {}}}
        for number in range(40)
    ]
    page.route("**/api/v1/jobs?limit=*", lambda route: route.fulfill(json={"jobs": jobs}))
    page.route("**/api/v1/jobs/*/files/*", lambda route: route.fulfill(body=b""))
    page.set_viewport_size({"width": 400, "height": 500})
    page.reload()
    page.wait_for_selector(".strip li:nth-child(41)")
    room = page.locator(".strip").bounding_box()
    current = page.locator(".strip [aria-current=true]").bounding_box()
    assert room["x"] <= current["x"]
    assert current["x"] + current["width"] <= room["x"] + room["width"]
    assert page.evaluate("scrollY") == 0  # the page itself stays where it is
