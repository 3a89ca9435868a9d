"""The page's reference picture: brought, set, drawn as by the API, restored, and left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipelines.controls.networks import hint
from tests.server.page.conftest import SMALL
from tests.server.page.test_controls import PICTURE, PROMPT, pixels, read_picture
from tests.server.servers import RunningServer

pytestmark = pytest.mark.slow
PLACE = ".reference .picture-name"


@pytest.fixture
def look(tmp_path: Path) -> Path:
    hint(1, (96, 64)).save(tmp_path / "look.png")
    return tmp_path / "look.png"


def add_reference(page: Any, look: Path) -> None:
    page.click("summary:has-text('Reference picture')")
    page.set_input_files(".reference .picture-file", look)
    page.wait_for_selector(".reference .picture-place img")


def draw_anew(page: Any) -> bytes:
    """Draw, and return the picture's bytes."""
    old = page.get_attribute(PICTURE, "src")
    page.click(".draw")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']:not([src='{old}'])")
    page.wait_for_selector("#frame:not(.busy)")
    return read_picture(page)


def read_card(page: Any) -> dict[str, str]:
    card = page.locator(".reference")
    names = ("Strength", "From", "Until", "Read under the words")
    return {name: card.get_by_label(name, exact=True).input_value() for name in names}


def test_a_reference_of_the_page_draws_what_the_api_draws_and_is_restored(
    page: Any, server: RunningServer, look: Path, tmp_path: Path
) -> None:
    page.click("summary:has-text('Reference picture')")
    assert page.locator(".reference").get_by_label("Strength").count() == 0
    page.set_input_files(".reference .picture-file", look)
    page.wait_for_selector(".reference .picture-place img")
    assert page.inner_text(PLACE) == "look.png"
    assert read_card(page) == dict(
        zip(("Strength", "From", "Until", "Read under the words"), ("1", "0", "1", ""), strict=True)
    )
    card = page.locator(".reference")
    card.get_by_label("Strength").fill("2.5")
    card.get_by_label("Until").fill("0.5")
    card.get_by_label("Read under the words").fill("a red star, scale=3")
    data = draw_anew(page)
    settings = {"prompt": "a red star, scale=3", "scale": 2.5, "steps": [0, 0.5]}
    asked = {"prompt": PROMPT, "steps": 2, "seed": 3, **SMALL}
    reference = {"image": server.upload(look), **settings}
    job = server.run("generate", reference=reference, **asked)
    assert np.array_equal(pixels(data), pixels(server.file(job, "seed-3.png")))

    # Left out, the picture is another; the history brings it back with its settings.
    page.click("text=Leave it out")
    assert page.inner_text(PLACE).startswith("Drop a picture here")
    assert not np.array_equal(pixels(draw_anew(page)), pixels(data))
    page.click(".strip li:nth-child(2) button")
    page.wait_for_selector(".reference input[type=range]")
    restored = {"Strength": "2.5", "From": "0", "Until": "0.5"}
    restored |= {"Read under the words": "a red star, scale=3"}
    assert read_card(page) == restored
    assert np.array_equal(pixels(draw_anew(page)), pixels(data))

    # So do its own metadata, which ask for the picture by name and digest.
    page.click("text=Leave it out")
    kept = tmp_path / "kept.png"
    kept.write_bytes(data)
    page.set_input_files("#file", kept)
    page.wait_for_selector("#restored")
    assert page.inner_text(PLACE) == "look.png, still to be brought"
    assert read_card(page) == restored
    assert page.locator("#restored .primary").is_disabled()
    page.set_input_files(".reference .picture-file", look)  # where the card is, as well as there
    page.wait_for_selector(".reference .picture-place img")
    page.click("#restored .primary:enabled")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")
    assert np.array_equal(pixels(read_picture(page)), pixels(data))


def test_a_reference_that_replaces_the_restored_one_is_no_part_of_what_was_drawn(
    page: Any, look: Path, tmp_path: Path
) -> None:
    add_reference(page, look)
    data = draw_anew(page)
    kept = tmp_path / "kept.png"
    kept.write_bytes(data)
    page.set_input_files("#file", kept)
    page.wait_for_selector("#restored")
    page.click(".reference >> text=Leave it out")
    other = tmp_path / "other.png"
    hint(2, (64, 64)).save(other)
    page.set_input_files(".reference .picture-file", other)
    page.wait_for_selector(f"{PLACE}:text-is('other.png')")
    assert page.locator(".alert").count() == 0
    assert page.locator("#restored .primary").is_disabled()
    page.set_input_files("#file", look)
    page.wait_for_selector("#restored .primary:enabled")
    assert page.inner_text(PLACE) == "other.png"


def test_a_picture_with_a_reference_is_inverted_for_its_edits(page: Any, look: Path) -> None:
    # A recorded source reads no reference: drawn again without it, it would be another picture.
    add_reference(page, look)
    draw_anew(page)
    with page.expect_request(lambda asked: '"invert"' in (asked.post_data or "")):
        page.locator(".word[data-text='cat'] .weight").fill("0.5")
    page.wait_for_selector("#change li:has-text('cat')")
    page.wait_for_selector("#frame:not(.busy)")
    assert page.locator(".alert").count() == 0


def test_a_reference_fits_a_narrow_window_is_dropped_and_taken_from_the_screen(
    page: Any, look: Path
) -> None:
    page.set_viewport_size({"width": 400, "height": 900})
    page.click("summary:has-text('Reference picture')")
    page.evaluate(
        """async (bytes) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], "look.png", { type: "image/png" }));
          const facts = { dataTransfer: files, bubbles: true, cancelable: true };
          document.querySelector(".reference").dispatchEvent(new DragEvent("drop", facts));
        }""",
        list(look.read_bytes()),
    )
    page.wait_for_selector(f"{PLACE}:text-is('look.png')")
    assert page.locator("#photo").is_hidden()
    page.locator(".reference").get_by_label("Strength").fill("2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click(".reference >> text=Take the one on screen")
    page.wait_for_selector(f"{PLACE}:text-is('seed-2.png')")
    assert page.locator(".reference").get_by_label("Strength").input_value() == "2"
    # A reload keeps it, and Draw draws with it.
    page.reload()
    page.wait_for_selector(f"{PLACE}:text-is('seed-2.png')")
    with page.expect_request("**/api/v1/jobs") as sent:
        page.click(".draw")
    assert sent.value.post_data_json["request"]["reference"]["scale"] == 2
    page.wait_for_selector(".word[data-text='balloon']")
