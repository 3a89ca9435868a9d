"""A picture with metadata dropped in restores everything."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.carrying import png
from tests.cli.test_story_a1111 import TEXT
from tests.cli.test_story_tools import comfyui, plain_graph
from tests.server.servers import wait_for_job
from tests.sweeps import sweep

pytestmark = pytest.mark.slow
PICTURE = ".picture:not(.source)"
FAST = {"steps": 2, "seed": 3}
CAR = Path(__file__).parents[3] / "docs" / "images" / "car.webp"


def draw(address: str, folder: Path, kind: str, name: str, **request: Any) -> Path:
    """A picture that this server drew, as a file."""
    path = folder / f"{kind}.png"
    path.write_bytes(wait_for_job(address, kind, name, request))
    return path


def drop(page: Any, path: Path) -> None:
    """Drop a file on the page."""
    page.set_input_files("#file", path)
    page.wait_for_selector(f"{PICTURE}[src^='blob:']")


def assert_same(page: Any, path: Path) -> None:
    """The page edits a recorded source, which rounds otherwise than source and target together."""
    address = page.evaluate(f"document.querySelector('{PICTURE}').src")
    drawn = np.asarray(Image.open(BytesIO(page.request.get(address).body()))).astype(int)
    assert np.abs(drawn - np.asarray(Image.open(path))).max() <= 1


def test_an_edit_with_boxes_and_an_alignment_is_drawn_again(
    page: Any, address: str, tmp_path: Path
) -> None:
    path = draw(
        address,
        tmp_path,
        "edit",
        "target-1.png",
        source_prompt="a cat and a balloon",
        targets=["a big dog and a balloon"],
        alignment={"dog": "cat"},
        regions=[{"words": "balloon", "box": [0.5, 0, 1, 0.5]}],
        cross_replace=0.8,
        **FAST,
    )
    drop(page, path)
    # It comes from this very server: nothing may differ.
    assert page.locator(".alert").count() == 0
    lines = page.locator("#restored li").all_inner_texts()
    assert lines == [
        "\u201ca cat and a balloon\u201d \u2192 \u201ca big dog and a balloon\u201d",
        "balloon in its box",
        "dog from cat",
    ]
    page.click("#restored .primary")
    page.wait_for_selector("#change li:has-text('balloon in its box')")
    page.wait_for_selector("#frame:not(.busy)")
    page.wait_for_selector("[aria-label='dog: from cat, by hand']", state="attached")
    assert page.locator(".box").count() == 1
    assert page.locator("#restored").is_hidden()
    assert_same(page, path)


def test_the_photo_that_a_picture_needs_is_asked_for(
    page: Any, address: str, tmp_path: Path
) -> None:
    car = tmp_path / "car.jpg"
    Image.open(CAR).convert("RGB").save(car)
    with page.expect_response("**/uploads") as stored:
        page.set_input_files("#file", car)
    upload = stored.value.json()
    page.click("#photo >> text=Cancel")
    path = draw(
        address,
        tmp_path,
        "edit",
        "target-1.png",
        source_prompt="a blue car",
        targets=["a red car"],
        image=upload["id"],
        **FAST,
    )
    drop(page, path)
    assert f"car.jpg, SHA-256 {upload['sha256'][:10]}" in page.inner_text(".needed")
    assert page.locator("#restored .primary").is_disabled()
    page.set_input_files("#wanted", car)
    page.click("#restored .primary")
    page.wait_for_selector("#change ins:has-text('red')")
    page.wait_for_selector("#frame:not(.busy)")
    assert page.locator(".alert").count() == 0
    assert_same(page, path)
    # Another file is taken, and said to be another.
    drop(page, path)
    other = tmp_path / "other.png"
    Image.new("RGB", (128, 128), (9, 9, 200)).save(other)
    page.set_input_files("#file", other)
    assert "other.png is another file than car.jpg" in page.wait_for_selector(".alert").inner_text()
    assert page.locator("#restored .primary").is_enabled()


def test_what_cannot_be_restored_is_said_by_name(page: Any, tmp_path: Path) -> None:
    request = {
        "prompt": "a fish",
        "num_inference_steps": 2,
        "ip_adapter": {"path": "ip.safetensors"},
        "image_prompt": {"path": "hat.png"},
        "loras": [{"path": "gone.safetensors"}],
    }
    texts = {"version": 1, "request": request, "seed": 1, "model_digest": "0" * 64}
    drop(page, png(tmp_path / "a.png", {"t2i": json.dumps(texts)}))
    assert page.locator(".lost li").all_inner_texts() == [
        "ip adapter",
        "image prompt",
        "the LoRA gone, which is not among the server's",
    ]
    assert page.input_value("#prompt") == "a fish"


def test_a_picture_dropped_in_survives_a_reload_and_undo_returns_to_it(
    page: Any, tmp_path: Path
) -> None:
    request = {
        "prompt": "a fish",
        "num_inference_steps": 2,
        "ip_adapter": {"path": "ip.safetensors"},
        "image": {"path": "car.jpg", "sha256": "0" * 64},
    }
    texts = {"version": 1, "request": request, "seed": 1, "model_digest": "0" * 64}
    drop(page, png(tmp_path / "a.png", {"t2i": json.dumps(texts)}))
    page.set_input_files("#wanted", CAR)

    def assert_restored() -> None:
        page.wait_for_selector(f"{PICTURE}[src^='blob:']")
        assert page.locator(".lost li").all_inner_texts() == ["ip adapter"]
        assert page.locator("#restored .primary").is_enabled()  # the photo need not come again
        assert page.input_value("#prompt") == "a fish"

    page.wait_for_selector("#restored .primary:enabled")
    page.reload()
    assert_restored()
    page.click(".draw")
    page.wait_for_selector(f"{PICTURE}[src*='/files/']")
    page.click("[aria-label='Undo']")
    assert_restored()


INVOKEAI = {
    **{"app_version": "5.4.0", "positive_prompt": "a cat", "negative_prompt": "blurry"},
    **{"width": 512, "height": 768, "seed": 7, "steps": 30, "cfg_scale": 7.5},
    **{"scheduler": "dpmpp_2m_k", "model": {"name": "sd-1.5"}},
}


@pytest.mark.parametrize(
    ("tool", "prompt", "seed", "steps"),
    # The server reads the file; that it reads those of every tool are tests of the command line.
    sweep(
        [
            ("A1111", "a cat, (detailed:1.2)\nsecond line", "1234567890", "20"),
            ("ComfyUI", "a cat\nin a hat", "156680208700286", "20"),
            ("InvokeAI", "a cat", "7", "30"),
        ],
        quick=1,
    ),
)
def test_a_picture_of_another_tool_restores_its_settings(
    page: Any, tmp_path: Path, tool: str, prompt: str, seed: str, steps: str
) -> None:
    path = tmp_path / "theirs.png"
    if tool == "ComfyUI":
        comfyui(path, plain_graph())
    elif tool == "A1111":
        png(path, {"parameters": TEXT})
    else:
        png(path, {"invokeai_metadata": json.dumps(INVOKEAI)})
    drop(page, path)
    assert tool in page.wait_for_selector(".alert[role=status]").inner_text()
    assert page.input_value("#prompt") == prompt
    assert page.input_value("#seed") == seed
    page.click("summary:has-text('More')")
    assert page.get_by_label("Steps", exact=True).input_value() == steps
    assert page.get_by_label("Sampler").input_value() == "dpm++ 2m karras"
    assert page.get_by_label("Width").input_value() == "512"
    # The model's name means nothing here: what was chosen stays.
    assert page.get_by_label("Model").input_value() == "embedded"
