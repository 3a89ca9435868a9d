"""A real browser at the real server with the embedded model; two steps a picture, half its size."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
NO_BROWSER = "no browser is installed: make browser test"
PATIENCE_MS = 60_000
"""For a job on a busy machine."""
STEPS = 2
SMALL = {"width": 64, "height": 64}
"""Half the model's own size, which takes two fifths of the time to draw."""
VIEWPORT = {"width": 1400, "height": 900}
FIRST_VISIT = """
if (!localStorage.getItem("t2i.page.1")) {
  localStorage.setItem("t2i.page.1", JSON.stringify({form: {
    prompt: "a cat and a balloon", negative_prompt: "", model: "embedded", steps: %d,
    guidance_scale: null, sampler: null, width: %d, height: %d, seed: 3, locked: true,
    grammar: "a1111", guidance_method: null, loras: [],
  }}));
}
"""
"""Settings that an earlier visit left: few steps, a small picture, a fixed seed."""
HIDDEN_JOBS = """
const ask = window.fetch;
window.fetch = async (address, options) => {
  if (!String(address).includes("/api/v1/jobs?limit=")) return ask(address, options);
  const answer = await ask(address.replace("limit=200", "limit=20"), options);
  if (!answer.ok) return answer;
  const hidden = JSON.parse(localStorage.getItem("tests.hidden") ?? "[]");
  const found = await answer.json();
  return Response.json({...found, jobs: found.jobs.filter((job) => !hidden.includes(job.id))});
};
"""
"""Of the shared server's jobs the page sees those of its test alone, and none of 200 earlier ones.

In the page, for a route of playwright's would stop each of its forty files, and keep none of them.
"""


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> str:
    """The address of the shared server."""
    if not CHROMIUM.exists():
        pytest.skip(NO_BROWSER)
    return str(request.getfixturevalue("server").url)


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


@pytest.fixture(scope="session")
def tab(browser: Any) -> Iterator[Any]:
    """A tab of the browser, for one test after the other: to open a new one takes a second."""
    # Without a GPU each frame of an animation costs the processor.
    context = browser.new_context(viewport=VIEWPORT, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(FIRST_VISIT % (STEPS, SMALL["width"], SMALL["height"]))
    context.add_init_script(HIDDEN_JOBS)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def devtools(tab: Any) -> Any:
    """Chromium's own protocol: one session for all, for each that is open costs in every load."""
    return tab.context.new_cdp_session(tab)


@pytest.fixture
def page(tab: Any, devtools: Any, address: str) -> Iterator[Any]:
    """The page, opened for the first time. Errors of its scripts fail the test."""
    errors: list[str] = []

    def note(error: Any) -> None:
        errors.append(str(error))

    def note_policy(message: Any) -> None:
        if "Security Policy" in message.text:
            errors.append(message.text)

    forget = {"origin": address, "storageTypes": "all"}
    tab.goto(f"{address}/api/v1/health")  # of the same origin, and so in the same process
    devtools.send("Storage.clearDataForOrigin", forget)
    tab.set_viewport_size(VIEWPORT)
    tab.emulate_media(color_scheme="light")
    tab.mouse.move(0, 0)
    jobs = tab.request.get(f"{address}/api/v1/jobs?limit=20").json()["jobs"]
    hide = "ids => localStorage.setItem('tests.hidden', JSON.stringify(ids))"
    tab.evaluate(hide, [job["id"] for job in jobs])
    tab.on("pageerror", note)
    tab.on("console", note_policy)
    tab.goto(address)
    tab.wait_for_selector(".word[data-text='rocket']")
    yield tab
    tab.unroute_all(behavior="ignoreErrors")  # of handlers that still wait for the server
    tab.remove_listener("pageerror", note)
    tab.remove_listener("console", note_policy)
    assert errors == []


@pytest.fixture
def drawn(page: Any) -> Any:
    """The page with a picture that was drawn on it: a cat and a balloon."""
    page.click(".draw")
    page.wait_for_selector(".word[data-text='balloon']")
    return page


@pytest.fixture
def _quick_inversions(page: Any) -> None:
    """What is inverted on the page is so in four steps, in place of the model's ten."""

    def shorten(route: Any) -> None:
        job = route.request.post_data_json
        if job["kind"] == "invert":
            job["request"]["steps"] = 4
        route.continue_(post_data=json.dumps(job))

    page.route("**/api/v1/jobs", shorten)
