"""Every part of a restored request is in the request of the next Draw."""

import json
from pathlib import Path
from typing import Any

import pytest

from t2i.server.jobs.job_request import EditRequest, GenerateRequest

pytestmark = pytest.mark.slow
OPENING = Path(__file__).parents[3] / "t2i" / "server" / "page" / "opening" / "seed-2.png"
CAR = Path(__file__).parents[3] / "docs" / "images" / "car.webp"
PICTURE_BYTES = OPENING.read_bytes()
PICTURE = ".picture:not(.source)"
JOB, SOURCE, RECORDED, UPLOADED = ("JSRU"[place] * 22 for place in range(4))

SAMPLING: dict[str, Any] = {
    "negative_prompt": "a dog",
    "model": "embedded",
    "steps": 3,
    "guidance_scale": 4.5,
    "sampler": "euler",
    "width": 64,
    "height": 96,
    "seed": 11,
    "grammar": "comfy",
    "guidance_method": "apg",
    "loras": [{"name": "ink", "scale": 0.5}],
    "embeddings": [{"name": "hat", "token": "hatty"}],
}
REGIONS = [{"words": "balloon", "box": [0.5, 0.0, 1.0, 0.5]}]
GENERATE = SAMPLING | {
    "prompt": "a cat and a balloon",
    "image": UPLOADED,
    "mask": UPLOADED,
    "strength": 0.6,
    "upscale": "2:0.3",
    "regions": REGIONS,
    "reference": {"image": UPLOADED, "prompt": "a star", "scale": 2, "steps": [0.0, 0.5]},
}
EDIT = SAMPLING | {
    "source_prompt": "a cat and a balloon",
    "targets": ["a dog and a balloon"],
    "weights": {"balloon": 1.5},
    "blend": "cat,dog",
    "cross_replace": [0.0, 0.7],
    "self_replace": [0.0, 0.3],
    "alignment": {"dog": "cat"},
    "regions": REGIONS,
}
NOT_OF_THE_PICTURE = {"num", "words_maps", "map_steps"}
NOT_ON_THE_PAGE = {"controls"}
"""Fields that the page names as not restored."""
OF_A_MODEL_WITH_PRESETS = {"preset"}
"""See test_presets.py: the embedded model has none, and the page names none that a model lacks."""
OF_A_PHOTO = {"image", "mask", "method", "fit", "full_size", "source"}


def test_the_samples_have_every_field_of_the_requests() -> None:
    left_out = NOT_OF_THE_PICTURE | NOT_ON_THE_PAGE | OF_A_MODEL_WITH_PRESETS
    assert GENERATE.keys() == GenerateRequest.model_fields.keys() - left_out
    assert EDIT.keys() == EditRequest.model_fields.keys() - left_out - OF_A_PHOTO


class Recorder:
    """Requests of jobs that the page sends; each is answered as if it were done at once."""

    def __init__(self, page: Any, kind: str, request: dict[str, Any]) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.jobs = {JOB: self.describe(JOB, kind, request)}
        page.route("**/api/v1/jobs", self.submit)
        page.route("**/api/v1/jobs?*", lambda route: route.fulfill(json={"jobs": [self.jobs[JOB]]}))
        page.route("**/api/v1/jobs/*", self.get)
        page.route("**/api/v1/jobs/*/files/*", lambda route: route.fulfill(body=PICTURE_BYTES))
        page.route("**/api/v1/jobs/*/events", self.tell)

    def describe(self, name: str, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        file = "target-1.png" if kind == "edit" else "seed-11.png"
        files = [{"name": file, "width": 128, "height": 128, "seed": 11}]
        result = {"files": files, "data": {}}
        job = {"id": name, "kind": kind, "state": "done", "seeds": [11], "error": None}
        return job | {"request": request, "result": result}

    def submit(self, route: Any) -> None:
        new = json.loads(route.request.post_data)
        self.sent.append((new["kind"], new["request"]))
        name = RECORDED if new["kind"] == "remember" else f"{len(self.sent):022d}"
        self.jobs[name] = self.describe(name, new["kind"], new["request"])
        route.fulfill(status=202, json=self.jobs[name])

    def get(self, route: Any) -> None:
        route.fulfill(json=self.jobs[route.request.url.rpartition("/")[2]])

    def tell(self, route: Any) -> None:
        body = 'event: state\ndata: {"state": "done"}\n\n'
        route.fulfill(content_type="text/event-stream", body=body)


def restore(page: Any, how: str, kind: str, request: dict[str, Any]) -> Recorder:
    """Restore a request from a picture's metadata, or from the history."""
    recorder = Recorder(page, kind, request)
    if how == "metadata":
        names = [name for name in ("image", "mask") if name in request]
        recorded = {name: value for name, value in request.items() if name not in names}
        if reference := dict(request.get("reference", {})):
            names.append("reference.image")
            del reference["image"]
            recorded["reference"] = reference
        found = {
            "request": recorded,
            "kind": kind,
            "tool": "t2i",
            "differences": [],
            "not_restored": [],
            "pictures": [{"field": name, "name": "car.webp", "sha256": None} for name in names],
        }
        page.route("**/api/v1/metadata", lambda route: route.fulfill(json=found))
        stored = {"id": UPLOADED, "width": 8, "height": 8, "sha256": "0" * 64}
        page.route("**/api/v1/uploads", lambda route: route.fulfill(status=201, json=stored))
        page.set_input_files("#file", OPENING)
        for name in names:
            label = {"image": "photo", "reference.image": "reference picture"}.get(name, name)
            page.click(f"#restored >> text=Choose the {label}")
            page.set_input_files("#wanted", CAR)
            page.wait_for_selector(f"#restored >> text=Choose the {label}", state="detached")
        page.wait_for_selector(f"{PICTURE}[src^='blob:']")
    else:
        page.reload()
        page.click(".strip li:first-child button")
        page.wait_for_selector(f"{PICTURE}[src*='{JOB}']")
    recorder.sent.clear()
    return recorder


def draw(page: Any, recorder: Recorder, count: int) -> list[tuple[str, dict[str, Any]]]:
    page.click(".draw")
    for _ in range(200):
        if len(recorder.sent) >= count:
            break
        page.wait_for_timeout(50)
    assert page.locator(".alert[role=alert]").all_inner_texts() == []
    assert len(recorder.sent) == count
    return recorder.sent


@pytest.mark.parametrize("how", ["metadata", "history"])
def test_every_part_of_a_picture_survives_the_next_draw(page: Any, how: str) -> None:
    recorder = restore(page, how, "generate", GENERATE)
    lines = page.locator(".also li").all_inner_texts()
    assert "balloon in its box" in lines
    ((kind, sent),) = draw(page, recorder, 1)
    assert kind == "generate"
    assert {name: sent.get(name) for name in GENERATE} == GENERATE
    # Each is taken out by hand.
    while page.locator(".also button").count():
        page.locator(".also button").first.click()
    *_, (_, sent) = draw(page, recorder, 2)
    assert not sent.keys() & {"image", "mask", "strength", "regions", "embeddings"}


@pytest.mark.parametrize("how", ["metadata", "history"])
def test_every_part_of_an_edit_survives_the_next_draw(page: Any, how: str) -> None:
    recorder = restore(page, how, "edit", EDIT)
    (first, source), (second, recorded), (third, edit) = draw(page, recorder, 3)
    assert (first, second, third) == ("generate", "remember", "edit")
    for sent in (source, recorded):
        assert {name: sent.get(name) for name in SAMPLING} == SAMPLING
        assert sent["prompt"] == EDIT["source_prompt"]
    assert edit["source"] == RECORDED
    changes = EDIT.keys() - SAMPLING.keys() - {"source_prompt"}
    assert {name: edit.get(name) for name in changes} == {name: EDIT[name] for name in changes}


def test_an_edit_of_a_recorded_source_survives_the_next_draw(page: Any) -> None:
    edit = {name: value for name, value in EDIT.items() if name not in SAMPLING}
    del edit["source_prompt"]
    recorder = Recorder(page, "edit", edit | {"source": SOURCE})
    request = SAMPLING | {"prompt": EDIT["source_prompt"]}
    recorder.jobs[SOURCE] = recorder.describe(SOURCE, "remember", request)
    page.reload()
    page.click(".strip li:first-child button")
    page.wait_for_selector("#change:not([hidden])")
    page.fill("#seed", "12")
    (_, source), _, (_, again) = draw(page, recorder, 3)
    assert {name: source.get(name) for name in request} == request | {"seed": 12}
    assert {name: again.get(name) for name in edit} == edit


def test_a_picture_that_is_still_missing_is_asked_for(page: Any) -> None:
    found = {
        "request": {"prompt": "a car", "strength": 0.5, "seed": 1},
        "kind": "generate",
        "tool": "t2i",
        "differences": [],
        "not_restored": [],
        "pictures": [{"field": "image", "name": "car.jpg", "sha256": None}],
    }
    page.route("**/api/v1/metadata", lambda route: route.fulfill(json=found))
    page.set_input_files("#file", OPENING)
    page.wait_for_selector("#restored:not([hidden])")
    page.click(".draw")
    assert "Missing car.jpg" in page.wait_for_selector(".alert[role=alert]").inner_text()
    page.click("[aria-label^='Leave out: from car.jpg']")
    assert page.locator(".also").is_hidden()
