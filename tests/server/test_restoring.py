"""Pictures with metadata are restored: the job that draws each again, and what it lacks by name."""

import hashlib
import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2i.cli import main
from tests.cli.carrying import png
from tests.server.conftest import Idle
from tests.server.servers import RunningServer

FAST = {"steps": 2, "seed": 7}
PHOTO = "docs/images/car.webp"


def read(server: RunningServer, data: bytes) -> dict[str, Any]:
    answer = server.post("/api/v1/metadata", files={"file": ("a.png", data)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_picture_with_boxes_is_that_of_the_command_and_is_restored(
    server: RunningServer, tmp_path: Path
) -> None:
    regions = [{"words": "apple", "box": [0.5, 0.0, 1.0, 1.0]}]
    request = {"prompt": "a cat and an apple", "regions": regions, **FAST}
    data = server.file(server.run("generate", **request), "seed-7.png")
    told = server.post("/api/v1/export", json={"kind": "generate", "request": request}).json()
    out = tmp_path / "a.png"
    assert main([*shlex.split(told["command"])[1:], "--out", str(out)]) == 0
    assert out.read_bytes() == data
    found = read(server, data)
    assert (found["kind"], found["not_restored"]) == ("generate", [])
    assert found["request"]["regions"] == regions
    again = server.run("generate", **found["request"], words_maps=True)
    assert (pixels(server.file(again, "seed-7.png")) == pixels(data)).all()


def test_an_edit_is_restored_with_all_that_it_changes(server: RunningServer) -> None:
    request = {
        "source_prompt": "a cat and a balloon",
        "targets": ["a balloon and a big dog"],
        "weights": {"dog": 1.5},
        "alignment": {"dog": "cat", "big": None},
        "regions": [{"words": "dog", "box": [0.5, 0.0, 1.0, 1.0]}],
        "blend": "cat+balloon,dog",
        "cross_replace": [0.0, 1.0],
        "self_replace": [0.0, 0.5],
        **FAST,
    }
    data = server.file(server.run("edit", **request), "target-1.png")
    found = read(server, data)
    assert found["kind"] == "edit"
    assert {name: found["request"][name] for name in request} == request
    assert found["not_restored"] == found["pictures"] == found["differences"] == []
    again = server.run(found["kind"], **found["request"])
    assert server.file(again, "target-1.png") == data


def test_one_of_several_targets_is_restored_alone(server: RunningServer) -> None:
    targets = ["a dog and a balloon", "a cat and a red balloon"]
    job = server.run("edit", source_prompt="a cat and a balloon", targets=targets, **FAST)
    data = server.file(job, "target-1.png")
    found = read(server, data)
    assert found["request"]["targets"] == targets[:1]
    again = server.run(found["kind"], **found["request"])
    redrawn, drawn = pixels(server.file(again, "target-1.png")).astype(int), pixels(data)
    assert abs(redrawn - drawn).max() <= 1  # a batch of two rounds otherwise than one of three


def test_a_photo_that_is_needed_is_named_by_its_digest(server: RunningServer, repo: Path) -> None:
    digest = hashlib.sha256((repo / PHOTO).read_bytes()).hexdigest()
    upload = server.upload(repo / PHOTO)
    request = {"source_prompt": "a blue car", "targets": ["a red car"], "fit": "pad", **FAST}
    job = server.run("edit", image=upload, method="direct", **request)
    data = server.file(job, "target-1.png")
    found = read(server, data)
    assert found["pictures"] == [{"field": "image", "name": "car.webp", "sha256": digest}]
    assert found["request"]["method"].startswith("direct")
    assert found["request"]["fit"] == "pad"
    with (repo / PHOTO).open("rb") as file:
        stored = server.post("/api/v1/uploads", files={"file": ("car.webp", file)}).json()
    assert stored["sha256"] == digest
    again = server.run("edit", **found["request"], image=stored["id"])
    assert (pixels(server.file(again, "target-1.png")) == pixels(data)).all()
    # The inversion itself is restored as one.
    inverted = server.run("invert", image=upload, prompt="a blue car", method="direct", **FAST)
    found = read(server, server.file(inverted, "reconstruction.png"))
    assert (found["kind"], found["request"]["prompt"]) == ("invert", "a blue car")
    assert found["pictures"][0]["sha256"] == digest


def record(**request: Any) -> dict[str, str]:
    values = {"prompt": "a dog", "model": "embedded", **request}
    fields = {"version": 1, "request": values, "seed": 1, "model_digest": "0" * 64}
    return {"t2i": json.dumps(fields)}


def test_what_a_job_cannot_repeat_is_named(idle: Idle, tmp_path: Path) -> None:
    edited = {
        "prompts": ["a cat", "a dog"],
        "picture": 1,
        "edits": [
            {"edit": "attend-and-excite", "words": ["dog"], "target": 1},
            {"edit": "replace", "steps": [0, 4]},
            {"edit": "self-replace", "heads": [0]},
            {"edit": "reweight", "target": 2, "weights": {"cat": 2.0}},
        ],
    }
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "ink.safetensors").write_bytes(b"other")
    client = idle(lora_folder=tmp_path / "loras")
    loras = [{"path": "/x/ink.safetensors", "sha256": "1" * 64}, {"path": "gone.safetensors"}]
    adapter = {"path": "ip.safetensors"}
    texts = record(edited=edited, model="models/mine", loras=loras, ip_adapter=adapter)
    # An adapter and edits are never drawn together: each is read alone.
    values = json.loads(texts["t2i"])
    values["request"]["ip_adapter"] = None
    data = png(tmp_path / "a.png", {"t2i": json.dumps(values)}).read_bytes()
    found = client.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert found["not_restored"] == [
        "the model models/mine",
        "the LoRA ink, which has other contents here",
        "the LoRA gone, which is not among the server's",
        "the edit attend-and-excite as it is recorded",
        "the edit replace as it is recorded",
        "the edit self-replace as it is recorded",
    ]
    prompt = {"path": "hat.png", "scale": 0.5}
    data = png(tmp_path / "b.png", record(ip_adapter=adapter, image_prompt=prompt)).read_bytes()
    found = client.post("/api/v1/metadata", files={"file": ("b.png", data)}).json()
    assert found["not_restored"] == ["ip adapter", "image prompt"]
    assert "made with model 0000000000, here is " in "".join(found["differences"])
