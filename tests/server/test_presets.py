"""Presets through the API: those of the command line, listed, restored and exported."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from tests.cli.preset_model import write_notes
from tests.server.conftest import PRESETS, Idle
from tests.server.servers import RunningServer

PROMPT = "a cat and a balloon"
SMALL: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "width": 64, "height": 64}


def test_a_preset_is_the_one_of_the_command_line(
    server: RunningServer, preset_folder: Path, tmp_path: Path
) -> None:
    model = str(preset_folder)
    done = server.run("generate", model=model, preset="fast", **SMALL)
    data = server.file(done, "seed-3.png")
    words = ["generate", PROMPT, "--model", model, "--seed", "3", "--size", "64", "--fast"]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 0
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(tmp_path / "a.png"))
    )
    record = json.loads(Image.open(io.BytesIO(data)).info["t2i"])["request"]
    assert record["preset"]["name"] == "fast"
    assert record["num_inference_steps"] == 2
    # What the picture records restores it.
    found = server.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert found["not_restored"] == []
    assert found["request"]["preset"] == "fast"
    assert "loras" not in found["request"]
    again = server.run("generate", **found["request"])
    assert server.file(again, "seed-3.png") == data


def test_the_settings_of_a_request_win_over_its_preset_and_warnings_are_told(
    server: RunningServer, preset_folder: Path
) -> None:
    model = str(preset_folder)
    done = server.run("generate", model=model, preset="fast", guidance_scale=7, **SMALL)
    assert done["result"]["data"]["request"]["guidance_scale"] == 7
    assert any("distilled for guidance 1" in one for one in done["result"]["data"]["warnings"])
    cut = server.run("generate", model=model, preset="cut", steps=3, **SMALL)
    request = cut["result"]["data"]["request"]
    assert request["num_inference_steps"] == 3
    assert request["cache"] == ["deep:every=2"]
    assert request["loras"] == []
    found = server.post(
        "/api/v1/metadata", files={"file": ("a.png", server.file(cut, "seed-3.png"))}
    ).json()
    assert found["not_restored"] == []
    assert found["request"]["preset"] == "cut"


def test_models_list_their_presets(idle: Idle, preset_folder: Path) -> None:
    client = idle(models=("embedded", str(preset_folder)))
    embedded, model = client.get("/api/v1/models").json()["models"][:2]
    assert [one["name"] for one in model["presets"]] == ["exact", *PRESETS]
    assert "cut" not in [one["name"] for one in embedded["presets"]]
    exact, fast, _ = model["presets"]
    assert [exact["steps"], exact["guidance_scale"], exact["sampler"]] == [10, 3.0, "ddim"]
    assert [fast["steps"], fast["guidance_scale"], fast["sampler"]] == [2, 1.0, "lcm"]
    assert fast["loras"] == ["fast"]
    assert fast["cost"]["said"] == -0.4
    body = {"kind": "generate", "request": {**SMALL, "preset": "fast"}}
    command = client.post("/api/v1/export", json=body).json()["command"]
    assert "--preset fast" in command


@pytest.mark.parametrize(
    ("request_values", "message"),
    [
        ({"preset": "fats"}, "Did you mean 'fast'"),
        ({"preset": "../x"}, "preset"),
        ({"preset": "presets.json:fast"}, "preset"),
    ],
    ids=str,
)
def test_a_preset_that_the_model_has_not_is_refused(
    idle: Idle, preset_folder: Path, request_values: dict[str, Any], message: str
) -> None:
    client = idle(models=(str(preset_folder),))
    answer = client.post(
        "/api/v1/jobs", json={"kind": "generate", "request": SMALL | request_values}
    )
    assert answer.status_code == 422
    assert message in answer.text


def test_a_changed_preset_is_not_restored_by_its_name(
    server: RunningServer, idle: Idle, preset_folder: Path, tmp_path: Path
) -> None:
    done = server.run("generate", model=str(preset_folder), preset="fast", **SMALL)
    data = server.file(done, "seed-3.png")
    client = idle(models=("embedded", str(preset_folder)))
    notes = (preset_folder / "t2i.json").read_text()
    write_notes(preset_folder, {"fast": {"steps": 5}, "other": PRESETS["fast"]})
    try:
        found = client.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    finally:
        (preset_folder / "t2i.json").write_text(notes)
    assert "preset" not in found["request"]
    assert found["request"]["steps"] == 2
    assert any("the LoRA fast" in one for one in found["not_restored"])


@pytest.mark.parametrize("preset", ["fast", "cut"])
def test_a_picture_of_a_preset_is_edited_under_it(
    server: RunningServer, preset_folder: Path, preset: str
) -> None:
    drawn = {**SMALL, "model": str(preset_folder), "preset": preset}
    remembered = server.run("remember", **drawn)
    target = "a dog and a balloon"
    edited = server.run("edit", source=remembered["id"], targets=[target])
    assert edited["state"] == "done", edited["error"]
    request = edited["result"]["data"]["request"]
    assert request["preset"]["name"] == preset
    plain = server.run("generate", **drawn)
    source = server.file(remembered, "seed-3.png")
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(source))),
        np.asarray(Image.open(io.BytesIO(server.file(plain, "seed-3.png")))),
    )
