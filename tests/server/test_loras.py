"""LoRAs through the API, through A1111's, and on the command line: the same pictures."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from tests.server.servers import RunningServer

PROMPT = "a cat and a balloon"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def a1111(server: RunningServer, prompt: str) -> bytes:
    body = {"prompt": prompt, "seed": 3, "steps": 2, "width": 128, "height": 128, "cfg_scale": 3}
    answer = server.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["images"][0])


def test_a_lora_is_the_same_by_api_tag_and_command(
    server: RunningServer, lora_folder: Path, tmp_path: Path
) -> None:
    request = {"seed": 3, "steps": 2, "guidance_scale": 3, "width": 128, "height": 128}
    loras = [{"name": "styles/ink", "scale": 0.5}]
    listed = server.run("generate", prompt=PROMPT, loras=loras, **request)
    plain = server.run("generate", prompt=PROMPT, **request)
    data = server.file(listed, "seed-3.png")
    assert not np.array_equal(pixels(data), pixels(server.file(plain, "seed-3.png")))
    lora = f"{lora_folder / 'styles' / 'ink.safetensors'}:0.5"
    words = ["generate", PROMPT, "--lora", lora, "--steps", "2", "--seed", "3", "--guidance", "3"]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 0
    assert np.array_equal(pixels(data), np.asarray(Image.open(tmp_path / "a.png")))
    names = [one["name"] for one in server.get("/sdapi/v1/loras").json()]
    assert names == ["styles/ink"]
    tagged = a1111(server, f"{PROMPT} <lora:styles/ink:0.5>")
    assert np.array_equal(pixels(tagged), pixels(data))
    assert np.array_equal(pixels(a1111(server, PROMPT)), pixels(server.file(plain, "seed-3.png")))
    # What the picture records restores it.
    found = server.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert found["request"]["loras"] == loras
    assert found["not_restored"] == []
    record = json.loads(Image.open(io.BytesIO(data)).info["t2i"])
    assert record["request"]["loras"][0]["scale"] == 0.5


def test_a_lora_that_the_server_does_not_list_is_named(server: RunningServer) -> None:
    body = {"prompt": f"{PROMPT} <lora:inc:1>", "steps": 2}
    answer = server.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 422
    assert "Unknown LoRA 'inc'." in answer.json()["detail"]
    assert "styles/ink" in answer.json()["detail"]
    assert str(server.folder.parent) not in answer.text
    job = {"kind": "generate", "request": {"prompt": PROMPT, "loras": [{"name": "styles/inc"}]}}
    answer = server.post("/api/v1/jobs", json=job)
    assert answer.status_code == 422
    assert "Unknown LoRA 'styles/inc'" in answer.json()["error"]["message"]
