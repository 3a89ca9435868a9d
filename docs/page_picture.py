"""Draw the picture that the page opens with, then docs/images/page.webp: the page with a finished
picture and one of its words chosen.

python -m docs.page_picture

It starts servers of its own, and needs chromium (make browser). Run it when the weights change.
"""

import io
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import httpx
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
OPENING = REPO / "t2i" / "server" / "page" / "opening"
STEPS_QUALITY = 75
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
        page.wait_for_selector("#tokens:not(:empty)")
        page.mouse.move(5, 5)
        page.wait_for_timeout(SETTLED_MS)
        taken = page.screenshot()
        chromium.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


def record_opening(address: str) -> None:
    """Draw the request of opening.json as a job, and keep of its result what the page reads."""
    opening = json.loads((OPENING / "opening.json").read_text("utf-8"))
    with httpx.Client(base_url=f"{address}/api/v1", timeout=PATIENCE_MS / 1000) as api:
        sent = {"kind": opening["kind"], "request": opening["request"]}
        job = api.post("/jobs", json=sent).raise_for_status().json()
        while job["state"] in ("waiting", "queued", "running"):
            time.sleep(0.2)
            job = api.get(f"/jobs/{job['id']}").raise_for_status().json()
        files = {
            file["name"]: api.get(f"/jobs/{job['id']}/files/{file['name']}")
            .raise_for_status()
            .content
            for file in job["result"]["files"]
        }
    steps = Image.open(io.BytesIO(files["steps.png"])).convert("RGB")
    steps.save(OPENING / "steps.webp", "WEBP", quality=STEPS_QUALITY)
    picture = f"seed-{job['seeds'][0]}.png"
    for name in (picture, "maps.png"):
        (OPENING / name).write_bytes(files[name])
    as_webp = {"name": "steps.webp", "media_type": "image/webp"}
    kept = [
        file | (as_webp if file["name"] == "steps.png" else {})
        for file in job["result"]["files"]
        if file["name"] in (picture, "steps.png")
    ]
    data = {name: job["result"]["data"][name] for name in ("maps", "steps")}
    data["steps"] |= {"file": as_webp["name"]}
    opening |= {"seeds": job["seeds"], "result": {"files": kept, "data": data}}
    text = json.dumps(opening, indent=1)
    (OPENING / "opening.json").write_text(text + "\n", "utf-8")


def main() -> None:
    """Serve the embedded model from an empty folder and save what its page shows."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), 8, 2) as (address, _):
        record_opening(address)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), 8, 2) as (address, _):
        picture = screenshot(address)
    write_atomically(PICTURE, lambda path: picture.save(path, "WEBP", quality=90))


if __name__ == "__main__":
    main()
