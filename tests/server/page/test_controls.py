"""Controls of the page: a network with its hint, strength, steps and mode; drawn and restored."""

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.carrying import png
from tests.pipelines.controls.networks import hint
from tests.server.page.conftest import SMALL
from tests.server.servers import RunningServer

pytestmark = pytest.mark.slow
PICTURE = ".picture:not(.source)"
PROMPT = "a cat and a balloon"
EMPTY = "Drop the picture that it reads here"


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    hint(1, (128, 128)).save(tmp_path / "edges.png")
    return tmp_path / "edges.png"


def slide(page: Any, name: str, value: str) -> None:
    page.locator(".control").get_by_label(name, exact=True).fill(value)


def add_control(page: Any, edges: Path) -> None:
    page.click("summary:has-text('Controls')")
    page.click(".add-control")
    page.set_input_files(".control .picture-file", edges)
    page.wait_for_selector(".control .picture-place img")


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
    assert page.inner_text(".control .picture-name") == "edges.png"
    slide(page, "Strength", "0.8")
    slide(page, "Until", "0.6")
    page.locator(".control").get_by_label("Mode").select_option("prompt")
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    data = read_picture(page)
    upload = server.upload(edges)
    control = {"name": "kinds/canny", "image": upload, "scale": 0.8, "steps": [0, 0.6]}
    control |= {"mode": "prompt"}
    asked = {"prompt": PROMPT, "controls": [control], "steps": 2, "seed": 3, **SMALL}
    job = server.run("generate", **asked)
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
    assert page.inner_text(".control .picture-name") == "edges.png, still to be brought"
    assert page.locator("#restored .primary").is_disabled()
    page.set_input_files("#file", edges)  # whatever is dropped now is what it waits for
    page.click("#restored .primary:enabled")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")
    assert np.array_equal(pixels(read_picture(page)), pixels(data))
    assert page.locator(".control").get_by_label("Strength", exact=True).input_value() == "0.8"


def test_a_control_of_the_page_has_a_mask_and_blocks_and_a_type(
    page: Any, server: RunningServer, edges: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.png"
    picture = Image.new("L", (128, 128))
    picture.paste(255, (64, 0, 128, 128))
    picture.save(half)
    add_control(page, edges)
    page.click(".control summary")
    page.set_input_files(".mask-file", half)
    page.wait_for_selector(".mask-name:has-text('half.png')")
    card = page.locator(".control")
    assert card.locator("details").get_attribute("open") is not None
    card.get_by_label("Blocks").fill("down.0 + mid")
    card.get_by_label("Type of the hint").fill("depth")
    card.get_by_label("Type of the hint").fill("")
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    data = read_picture(page)
    control = {"name": "kinds/canny", "image": server.upload(edges), "mask": server.upload(half)}
    control |= {"blocks": ["down.0", "mid"]}
    asked = {"prompt": PROMPT, "controls": [control], "steps": 2, "seed": 3, **SMALL}
    job = server.run("generate", **asked)
    assert np.array_equal(pixels(data), pixels(server.file(job, "seed-3.png")))

    # A restored picture brings them back, and its mask can be brought where the control is.
    kept = tmp_path / "kept.png"
    kept.write_bytes(data)
    page.set_input_files("#file", kept)
    page.wait_for_selector("#restored")
    assert card.get_by_label("Blocks").input_value() == "down.0+mid"
    assert page.inner_text(".mask-name") == "half.png, still to be brought"
    page.set_input_files(".mask-file", half)
    page.set_input_files(".control .picture-file", edges)
    page.click("#restored .primary:enabled")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")
    assert np.array_equal(pixels(read_picture(page)), pixels(data))

    # A type is for a network that reads several: of another it is an error in the server's words.
    card.get_by_label("Type of the hint").fill("depth")
    page.click("text=Act everywhere")
    page.click(".draw")
    assert "type" in page.wait_for_selector(".alert[role=alert]").inner_text()


def test_the_picture_on_screen_is_a_hint_and_one_that_lacks_is_said(page: Any) -> None:
    page.click("summary:has-text('Controls')")
    page.click(".add-control")
    page.click(".draw")
    told = page.wait_for_selector(".alert").inner_text()
    assert "Missing the hint of the control kinds/canny" in told
    page.click(".control .picture-place >> text=Take the one on screen")
    page.wait_for_selector(".control .picture-place img")
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
          const place = document.querySelector(".control .picture-place");
          place.dispatchEvent(new DragEvent("drop", facts));
        }""",
        list(other.read_bytes()),
    )
    page.wait_for_selector(".control .picture-name:has-text('other.png')")
    assert page.locator("#photo").is_hidden()


def restore_three(page: Any, folder: Path) -> list[Path]:
    """Drop a picture of three controls, 0.1 to 0.3 strong; return the files of their hints."""
    hints = [folder / f"hint-{number}.png" for number in (1, 2, 3)]
    for number, path in enumerate(hints, 4):
        hint(number, (128, 128)).save(path)
    controls = [
        {
            "model": {"path": "/x/canny"},
            "picture": {"path": path.name, "sha256": sha256(path.read_bytes()).hexdigest()},
            "scale": number / 10,
        }
        for number, path in enumerate(hints, 1)
    ]
    request = {"prompt": PROMPT, "num_inference_steps": 2, "controls": controls}
    texts = {"version": 1, "request": request, "seed": 3, "model_digest": "0" * 64}
    page.set_input_files("#file", png(folder / "three.png", {"t2i": json.dumps(texts)}))
    page.wait_for_selector("#restored")
    return hints


def cards(page: Any) -> list[tuple[str, str]]:
    """Strength and hint of each control of the form."""
    return [
        (card.get_by_label("Strength").input_value(), card.locator(".picture-name").inner_text())
        for card in page.locator(".control").all()
    ]


def test_a_restored_hint_goes_to_its_own_control_whichever_were_taken_away(
    page: Any, tmp_path: Path
) -> None:
    hints = restore_three(page, tmp_path)
    page.click("[aria-label='Take control 1 away']")
    page.set_input_files("#file", hints[1])
    page.wait_for_selector(".control .picture-name:text-is('hint-2.png')")
    lacking = "hint-3.png, still to be brought"
    assert cards(page) == [("0.2", "hint-2.png"), ("0.3", lacking)]
    # Also after a reload, and the hint of the control that was taken away is on none.
    page.reload()
    page.wait_for_selector("#restored .needed")
    page.set_input_files("#file", hints[0])
    page.wait_for_selector(".needed:has-text('hint-1.png')", state="detached")
    assert cards(page) == [("0.2", "hint-2.png"), ("0.3", lacking)]
    page.click("[aria-label='Take control 1 away']")
    page.set_input_files("#file", hints[2])
    page.wait_for_selector("#restored .primary:enabled")
    assert cards(page) == [("0.3", "hint-3.png")]
    # Drawn again is what the picture was, with all three.
    with page.expect_request("**/api/v1/jobs") as sent:
        page.click("#restored .primary")
    drawn = sent.value.post_data_json["request"]["controls"]
    assert [one["scale"] for one in drawn] == [0.1, 0.2, 0.3]
    assert len({one["image"] for one in drawn}) == 3
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")
    assert page.locator(".alert:not([role=status])").count() == 0


def test_a_hint_goes_to_its_control_where_another_is_taken_away_during_its_upload(
    page: Any, edges: Path
) -> None:
    page.click("summary:has-text('Controls')")
    for strength in ("0.1", "0.2", "0.3"):
        page.click(".add-control")
        page.locator(".control").last.get_by_label("Strength").fill(strength)
    uploads: list[Any] = []
    page.route("**/api/v1/uploads", lambda route: uploads.append(route))
    with page.expect_request("**/api/v1/uploads"):
        page.locator(".control .picture-file").nth(1).set_input_files(edges)
    page.click("[aria-label='Take control 1 away']")
    with page.expect_response("**/api/v1/uploads"):
        uploads[0].continue_()
    page.wait_for_selector(".control .picture-name:text-is('edges.png')")
    assert [name for _, name in cards(page)] == ["edges.png", EMPTY]
    # That of a control that was itself taken away is on none.
    with page.expect_request("**/api/v1/uploads"):
        page.locator(".control .picture-file").nth(0).set_input_files(edges)
    page.click("[aria-label='Take control 1 away']")
    with page.expect_response("**/api/v1/uploads"):
        uploads[1].continue_()
    page.wait_for_selector("#status:text-is('')", state="attached")
    assert cards(page) == [("0.3", EMPTY)]


def test_hints_that_their_cards_bring_let_a_restored_picture_be_drawn_again(
    page: Any, tmp_path: Path
) -> None:
    hints = restore_three(page, tmp_path)
    other = tmp_path / "other.png"
    hint(9, (128, 128)).save(other)
    for number, path in enumerate((hints[0], other, hints[2])):
        assert page.locator("#restored .primary").is_disabled()
        page.locator(".control .picture-file").nth(number).set_input_files(path)
        page.wait_for_selector(f".needed:has-text('{hints[number].name}')", state="detached")
    assert page.locator("#restored .primary").is_enabled()
    told = page.locator(".alert").all_inner_texts()
    assert any("other.png is another file than hint-2.png" in text for text in told)
    # The file that was meant replaces the other; one more of the same card changes the form alone.
    with page.expect_response("**/api/v1/uploads") as stored:
        page.locator(".control .picture-file").nth(1).set_input_files(hints[1])
    meant = stored.value.json()["id"]
    page.wait_for_selector(".control .picture-name:text-is('hint-2.png')")
    page.locator(".control .picture-file").nth(1).set_input_files(other)
    page.wait_for_selector(".control .picture-name:text-is('other.png')")
    page.click("#keep >> text=Command")
    command = page.wait_for_selector("#dialog pre").inner_text()
    assert command.count("--control") == 3
    page.click("#dialog >> text=Close")
    with page.expect_request("**/api/v1/jobs") as sent:
        page.click("#restored .primary")
    assert sent.value.post_data_json["request"]["controls"][1]["image"] == meant
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.wait_for_selector("#frame:not(.busy)")


def test_a_hint_is_chosen_for_the_line_that_asks_for_it(page: Any, tmp_path: Path) -> None:
    restore_three(page, tmp_path)
    other = tmp_path / "other.png"
    hint(9, (128, 128)).save(other)
    with page.expect_file_chooser() as chooser:
        page.locator("#restored .needed button").nth(1).click()
    chooser.value.set_files(other)
    page.wait_for_selector(".control .picture-name:text-is('hint-2.png')")
    assert (
        page.locator("#restored .needed")
        .all_inner_texts()[0]
        .startswith("It was made from the hint hint-1.png")
    )
