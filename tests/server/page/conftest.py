"""A real browser at the real server with the embedded model, two steps a picture."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server.loras import write_lora
from tests.server.servers import start_server

CHROMIUM = Path("/usr/bin/chromium")
NO_BROWSER = "no browser is installed: make browser test"
PATIENCE_MS = 60_000
"""For a job on a busy machine."""
STEPS = 2
FIRST_VISIT = """
if (!localStorage.getItem("t2i.page.1")) {
  localStorage.setItem("t2i.page.1", JSON.stringify({form: {
    prompt: "a cat and a balloon", negative_prompt: "", model: "embedded", steps: %d,
    guidance_scale: null, sampler: null, width: null, height: null, seed: 3, locked: true,
    grammar: "a1111", guidance_method: null, loras: [],
  }}));
}
"""
"""Settings that an earlier visit left: few steps, a fixed seed."""


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of one training run."""
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "cats"
    run.mkdir()
    records: list[dict[str, Any]] = [{"step": k, "loss": 1 / k, "time": 0.0} for k in range(1, 41)]
    records.append({"step": 40, "validation_loss": 0.05, "validation_by_level": [0.05]})
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (run / "samples").mkdir()
    for step, colour in ((20, "navy"), (40, "orange")):
        Image.new("RGB", (256, 64), colour).save(run / "samples" / f"step-{step}.png")
    return folder


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, runs_folder: Path) -> Iterator[str]:
    """The address of a server with the embedded model loaded, which shows the runs and a LoRA."""
    if not CHROMIUM.exists():
        pytest.skip(NO_BROWSER)
    folder = tmp_path_factory.mktemp("served")
    loras = write_lora(tmp_path_factory.mktemp("loras") / "ink.safetensors").parent
    options = "--runs", str(runs_folder), "--lora-dir", str(loras)
    with start_server(folder, *options) as server:
        yield server.url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless chromium."""
    if not CHROMIUM.exists():
        pytest.skip(NO_BROWSER)
    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=str(CHROMIUM), args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A fresh profile of the browser, with the settings of FIRST_VISIT."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(FIRST_VISIT % STEPS)
    yield context
    context.close()


@pytest.fixture
def page(context: Any, address: str) -> Iterator[Any]:
    """The page, opened. Errors of its scripts fail the test."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if "Security Policy" in message.text else None,
    )
    page.goto(address)
    page.wait_for_selector(".word[data-text='rocket']")
    yield page
    assert errors == []


@pytest.fixture
def drawn(page: Any) -> Any:
    """The page with a picture that was drawn on it: a cat and a balloon."""
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    return page
