"""Controls of the page: a network with its hint, strength, steps and mode; drawn and restored."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.controls.networks import hint
from tests.server.servers import RunningServer

pytestmark = pytest.mark.slow
PICTURE = ".picture:not(.source)"
PROMPT = "a cat and a balloon"


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    hint(1, (128, 128)).save(tmp_path / "edges.png")
    return tmp_path / "edges.png"


def slide(page: Any, name: str, value: str) -> None:
    page.locator(".control").get_by_label(name, exact=True).fill(value)


def add_control(page: Any, edges: Path) -> None:
    page.click("summary:has-text('Controls')")
    page.click(".add-control")
    page.set_input_files(".hint-file", edges)
    page.wait_for_selector(".hint-place img")


def read_picture(page: Any) -> bytes:
    address = page.evaluate(f"document.querySelector('{PICTURE}').src")
    return bytes(page.request.get(address).body())


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


def test_a_control_of_the_page_draws_what_the_api_draws_and_is_restored(
    page: Any, server: RunningServer, edges: Path, tmp_path: Path
) -> None:
    add_control(page, edges)
    assert page.locator(".control select").first.input_value() == "kinds/canny"
    assert page.inner_text(".hint-name") == "edges.png"
    slide(page, "Strength", "0.8")
    slide(page, "Until", "0.6")
    page.locator(".control").get_by_label("Mode").select_option("prompt")
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    data = read_picture(page)
    upload = server.upload(edges)
    control = {"name": "kinds/canny", "image": upload, "scale": 0.8, "steps": [0, 0.6]}
    control |= {"mode": "prompt"}
    job = server.run("generate", prompt=PROMPT, controls=[control], steps=2, seed=3)
    assert np.array_equal(pixels(data), pixels(server.file(job, "seed-3.png")))

    # Without it another picture is drawn; its own metadata bring it back, with the hint's name.
    old = page.get_attribute(PICTURE, "src")
    page.click("[aria-label='Take control 1 away']")
    page.click(".draw")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']:not([src='{old}'])")
    page.wait_for_selector("#frame:not(.busy)")
    assert page.locator(".control").count() == 0
    kept = tmp_path / "kept.png"
    kept.write_bytes(data)
    page.set_input_files("#file", kept)
    page.wait_for_selector("#restored")
    assert page.locator("#restored .changes li").all_inner_texts() == [
        "control kinds/canny at 0.8, 0 to 60 % of the steps, mode prompt"
    ]
    assert "It was made from the hint edges.png, SHA-256" in page.inner_text(".needed")
    assert page.inner_text(".hint-name") == "edges.png, still to be brought"
    assert page.locator("#restored .primary").is_disabled()
    page.set_input_files("#file", edges)  # whatever is dropped now is what it waits for
    page.click("#restored .primary:enabled")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")
    assert np.array_equal(pixels(read_picture(page)), pixels(data))
    assert page.locator(".control").get_by_label("Strength", exact=True).input_value() == "0.8"


def test_the_picture_on_screen_is_a_hint_and_one_that_lacks_is_said(page: Any) -> None:
    page.click("summary:has-text('Controls')")
    page.click(".add-control")
    page.click(".draw")
    told = page.wait_for_selector(".alert").inner_text()
    assert "Missing the hint of the control kinds/canny" in told
    page.click(".hint-place >> text=Take the one on screen")
    page.wait_for_selector(".hint-place img")
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    record = Image.open(BytesIO(read_picture(page))).info["t2i"]
    assert '"controls"' in record
    # An edit of it is of the same run: its source is recorded with the control.
    with page.expect_request(lambda asked: '"remember"' in (asked.post_data or "")) as sent:
        page.locator(".word[data-text='cat'] .weight").fill("0.5")
    assert [one["name"] for one in sent.value.post_data_json["request"]["controls"]] == [
        "kinds/canny"
    ]
    page.wait_for_selector("#change li:has-text('cat')")
    page.wait_for_selector("#frame:not(.busy)")
    assert page.locator(".alert").count() == 0


def test_a_control_fits_a_narrow_window_and_a_drop_on_it_is_its_hint(
    page: Any, edges: Path
) -> None:
    page.set_viewport_size({"width": 400, "height": 900})
    add_control(page, edges)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    other = edges.with_name("other.png")
    hint(2, (64, 64)).save(other)
    page.evaluate(
        """async (bytes) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], "other.png", { type: "image/png" }));
          const facts = { dataTransfer: files, bubbles: true, cancelable: true };
          document.querySelector(".hint-place").dispatchEvent(new DragEvent("drop", facts));
        }""",
        list(other.read_bytes()),
    )
    page.wait_for_selector(".hint-name:has-text('other.png')")
    assert page.locator("#photo").is_hidden()
