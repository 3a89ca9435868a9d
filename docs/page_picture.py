"""Draw docs/images/page.webp: the page with a finished picture and one of its words chosen.

python -m docs.page_picture

It starts a server of its own, and needs chromium (make browser).
"""

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.serve import served
from docs.pages import REPO
from t2i.atomic_files import write_atomically

PICTURE = REPO / "docs" / "images" / "page.webp"
PROMPTS = (
    "a butterfly above a house on a blue background",
    "a rocket above a house on a blue background",
)
WORD, SEED = "rocket", "2"
VIEWPORT = {"width": 1280, "height": 800}
DRAWN = ".picture:not(.source)"
PATIENCE_MS = 120_000
SETTLED_MS = 500
"""Milliseconds until the overlay has faded in."""


def screenshot(address: str) -> Image.Image:
    """Draw each prompt on the page, choose the word, and return what the browser shows."""
    with sync_playwright() as running:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = running.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = chromium.new_page(viewport=VIEWPORT)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_selector(".word .word-name")
        for number, prompt in enumerate(PROMPTS, start=1):
            page.fill("textarea", prompt)
            page.fill("#seed", SEED)
            page.click(".draw")
            page.wait_for_selector(f".history .thumb >> nth={number}")
            page.wait_for_selector(DRAWN)
        page.click(f".word[data-text='{WORD}'] .word-name")
        page.mouse.move(5, 5)
        page.wait_for_timeout(SETTLED_MS)
        taken = page.screenshot()
        chromium.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def main() -> None:
    """Serve the embedded model from an empty folder and save what its page shows."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), 8, 2) as (address, _):
        picture = screenshot(address)
    write_atomically(PICTURE, lambda path: picture.save(path, "WEBP", quality=90))


if __name__ == "__main__":
    main()
