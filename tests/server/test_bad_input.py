"""Requests that cannot be drawn are refused in the words of the command line, and nothing stays."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Idle

P = {"prompt": "a cat"}


def refused(idle: Idle, kind: str, request: Any, **settings: Any) -> tuple[int, str]:
    client = idle(**settings)
    body = json.dumps({"kind": kind, "request": request})  # with surrogates as escapes
    headers = {"content-type": "application/json"}
    answer = client.post("/api/v1/jobs", content=body, headers=headers)
    error = answer.json()["error"]
    assert error.keys() == {"type", "message"}
    assert client.get("/api/v1/jobs").json() == {"jobs": []}
    assert list(client.app.state.server.folder.iterdir()) == []
    return answer.status_code, error["message"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (P | {"steps": 0}, "Got --steps 0: expected a whole number from 1 to"),
        (P | {"steps": -(10**30)}, "Got --steps"),
        (P | {"guidance_scale": 1e30}, "Got --guidance 1e+30: expected a finite number"),
        (P | {"sampler": "eular"}, "Unknown sampler 'eular'. Did you mean 'euler'?"),
        (P | {"sampler": "EulerFooScheduler"}, "Unknown sampler"),
        (P | {"width": 10**6, "height": 10**6}, "a picture has at most 64 million pixels"),
        (P | {"width": -8, "height": 8}, "Got width -8: expected a number of pixels from 1 on"),
        (P | {"width": 0}, "Got width 0"),
        (P | {"seed": -1}, "Got --seed -1: expected a whole number from 0 to"),
        (P | {"seed": 2**70}, "Got --seed"),
        (P | {"num": 0}, "Got --num 0: expected a whole number from 1 to 10000"),
        (P | {"num": 2, "words_maps": True}, "Got num 2 with words_maps"),
        (P | {"strength": 0.5}, "Got --strength without --image"),
        (P | {"strength": 2}, "Got --strength 2.0: expected a number from 0"),
        (P | {"upscale": "9"}, "--upscale"),
        (P | {"upscale": "x"}, "Got --upscale 'x': expected a factor"),
        (P | {"guidance_method": "nothing"}, "nothing"),
        ({"prompt": "a (cat"}, "is never closed"),
        ({"prompt": "a" * 20_001}, "at most 20,000 are read"),
        ({"prompt": "\ud800"}, "not valid UTF-8"),
        ({"prompt": "a cat AND a dog", "words_maps": True}, "has parts joined by AND"),
        (P | {"loras": [{"name": "ink"}]}, "Unknown LoRA 'ink'. The server has none."),
        (P | {"grammar": "latin"}, "grammar: Input should be 'a1111', 'comfy' or 'plain'"),
        (P | {"guidance_scale": math.nan}, "Got --guidance nan: expected a finite number, such as"),
        (P | {"strength": math.inf}, "Got --strength inf: expected a number from 0"),
        (P | {"regions": [{"words": "cat", "box": [math.nan, 0, 1, 1]}]}, "Got box=(nan, "),
        (P | {"step": 3}, "step: Extra inputs are not permitted"),
        (P | {"steps": "many"}, "steps: Input should be a valid integer"),
        ({}, "prompt: Field required"),
        (P | {"image": "../../x"}, "image: String should match pattern"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(
    idle: Idle, request_: dict[str, Any], words: str
) -> None:
    status, message = refused(idle, "generate", request_)
    assert status == 422
    assert words in message


def test_an_upload_that_is_not_there_is_404(idle: Idle) -> None:
    status, message = refused(idle, "generate", P | {"image": "A" * 22})
    assert status == 404
    assert "Upload it again" in message


@pytest.mark.parametrize(
    ("kind", "request_", "words"),
    [
        ("edit", {}, "Missing source_prompt"),
        ("edit", {"source_prompt": "a cat"}, "Missing what to change"),
        ("edit", {"source_prompt": "a cat", "targets": ["a (dog"]}, "is never closed"),
        ("edit", {"source_prompt": "a", "targets": ["b"], "blend": "a,b,c"}, "Got --blend"),
        ("edit", {"source_prompt": "a", "targets": ["b"], "cross_replace": 2}, "cross_replace"),
        ("edit", {"source_prompt": "a", "targets": ["b"], "self_replace": [0.9, 0.1]}, "self_"),
        ("edit", {"source_prompt": "a", "targets": ["b"], "full_size": True}, "full_size"),
        ("edit", {"source_prompt": "a", "targets": ["b"], "mask": "A" * 22}, "mask without image"),
        ("edit", {"source_prompt": "a", "weights": {"a": math.nan}}, "Got weights['a']=nan"),
        ("edit", {"source_prompt": "a", "weights": {"a": -1e308}}, "up to 1,000,000: 1.0 leaves"),
        (
            "edit",
            {"source_prompt": "a", "targets": ["b"], "cross_replace": math.nan},
            "from 0 to 1",
        ),
        ("inspect", {}, "Missing prompt"),
        ("invert", {"prompt": "a"}, "image: Field required"),
        ("invert", {"prompt": "a", "image": "A" * 22}, "No upload"),
        ("paint", {"prompt": "a"}, "does not match any of the expected tags"),
    ],
)
def test_other_jobs_that_cannot_run_are_refused(
    idle: Idle, kind: str, request_: dict[str, Any], words: str
) -> None:
    status, message = refused(idle, kind, request_)
    assert status in (404, 422)
    assert words in message


def test_an_edit_of_a_job_that_is_not_done_says_so(idle: Idle) -> None:
    client = idle()
    for kind, request in (("generate", P), ("remember", P)):
        job = client.post("/api/v1/jobs", json={"kind": kind, "request": request}).json()
        edit = {"source": job["id"], "targets": ["a dog"]}
        answer = client.post("/api/v1/jobs", json={"kind": "edit", "request": edit})
        assert answer.status_code == 422
        expected = "records no source" if kind == "generate" else "is queued: a source can be used"
        assert expected in answer.json()["error"]["message"]
    edit = {"source": job["id"], "targets": ["a dog"], "steps": 3}
    client.app.state.server.store.finish(job["id"], "done", 1.0)
    answer = client.post("/api/v1/jobs", json={"kind": "edit", "request": edit})
    assert "Got steps with source: a recording has its own" in answer.json()["error"]["message"]


def test_a_request_of_too_much_work_says_the_bound(idle: Idle) -> None:
    status, message = refused(
        idle,
        "generate",
        P | {"width": 128, "height": 128, "steps": 100},
        max_pixels_x_steps=128 * 128 * 99,
    )
    assert status == 422
    assert "Got 128x128 pixels x 100 steps x 1: 1,638,400" in message
    assert "takes up to 1,622,016" in message


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"", 422), (b"\xff\xfe", 400), (b"[1]", 422), (b"null", 422), (b"{}", 422)],
)
def test_a_body_that_is_no_request_is_refused(idle: Idle, body: bytes, status: int) -> None:
    answer = idle().post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/api/v1/export", {"kind": "generate", "request": {"prompt": "\ud800"}}, "request.prompt"),
        ("/api/v1/jobs", {"kind": "generate", "request": {"\udfff": 1}}, "a name of a field"),
        ("/api/v1/tokens", {"prompt": "a", "model": "\ud800"}, "model"),
        ("/sdapi/v1/txt2img", {"prompt": "a", "hr_upscaler": "\ud800"}, "hr_upscaler"),
        ("/sdapi/v1/options", {"\ud800": 1}, "a name of a field"),
        ("/v1/images/generations", {"prompt": "a", "user": ["\ud800"]}, "user"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(
    idle: Idle, path: str, body: dict[str, Any], name: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = idle().post(path, content=json.dumps(body), headers=headers)
    assert answer.status_code in (400, 422)
    assert f"{name} is not valid UTF-8 at character 0" in answer.text


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/sdapi/v1/txt2img", "cfg_scale"),
        ("/sdapi/v1/img2img", "denoising_strength"),
        ("/v1/images/generations", "guidance_scale"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, "NaN", -math.inf])
def test_other_apis_refuse_numbers_that_are_not_finite(
    idle: Idle, path: str, field: str, value: object
) -> None:
    body = json.dumps({"prompt": "a", field: value})
    answer = idle().post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert f"{field}: Input should be a finite number" in answer.text


def test_a_scale_that_is_not_finite_is_refused(idle: Idle, lora_folder: Path) -> None:
    loras = [{"name": "styles/ink", "scale": math.nan}]
    _, message = refused(idle, "generate", P | {"loras": loras}, lora_folder=lora_folder)
    assert "expected a finite number, such as 0.8" in message


@pytest.mark.parametrize("field", ["guidance_scale", "strength", "upscale"])
def test_a_number_that_is_not_finite_is_not_exported(idle: Idle, field: str) -> None:
    body = json.dumps({"kind": "generate", "request": P | {field: math.nan}})
    answer = idle().post(
        "/api/v1/export", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert "Got a number that is not finite" in answer.text


def test_a_deep_document_is_refused(idle: Idle) -> None:
    answer = idle().post(
        "/api/v1/jobs",
        content=b"[" * 200_000,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in (400, 422)


def test_an_upload_that_is_cut_off_is_refused(idle: Idle) -> None:
    def parts() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nabc'

    answer = idle().post(
        "/api/v1/uploads",
        content=parts(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/api/v1/jobs/x", "/api/v1/runs/x", "/api/v1/nothing"])
def test_what_is_not_there_is_404_as_json(idle: Idle, path: str) -> None:
    answer = idle().get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_a_wrong_method_is_405_as_json(idle: Idle) -> None:
    answer = idle().put("/api/v1/jobs")
    assert answer.status_code == 405
    assert json.loads(answer.text)["error"]["type"] == "RequestError"
