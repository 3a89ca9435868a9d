"""A reference picture through the API and on the command line: the same picture, restored."""

import hashlib
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from t2i.errors import ArgumentError
from t2i.server.api.export import build_export_answer
from t2i.server.catalogue import build_catalogue
from t2i.server.jobs.job_request import GenerateJob, ReferenceChoice
from t2i.server.jobs.request_building import check_pixel_steps_limit, resolve_job_request
from t2i.server.settings import ServerSettings
from tests.pipelines.controls.networks import hint
from tests.server.servers import RunningServer

PROMPT = "a cat and a balloon"
RUN = {"seed": 3, "steps": 2, "guidance_scale": 3, "width": 128, "height": 128}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_reference_is_the_same_by_api_and_command_and_is_restored(
    server: RunningServer, tmp_path: Path
) -> None:
    hint(1, (128, 128)).save(tmp_path / "look.png")
    settings = {"prompt": "a red star", "scale": 2, "steps": [0, 0.5]}
    reference = {"image": server.upload(tmp_path / "look.png"), **settings}
    job = server.run("generate", prompt=PROMPT, reference=reference, **RUN)
    data = server.file(job, "seed-3.png")
    plain = server.run("generate", prompt=PROMPT, **RUN)
    assert not np.array_equal(pixels(data), pixels(server.file(plain, "seed-3.png")))
    value = f"{tmp_path / 'look.png'}:scale=2,steps=0-0.5,prompt=a red star"
    words = ["generate", PROMPT, "--reference", value, "--steps", "2", "--seed", "3"]
    assert main([*words, "--guidance", "3", "--out", str(tmp_path / "a.png")]) == 0
    assert np.array_equal(pixels(data), np.asarray(Image.open(tmp_path / "a.png")))

    mapped = server.run(
        "generate", prompt=PROMPT, reference=reference, words_maps=True, map_steps=True, **RUN
    )
    assert np.array_equal(pixels(server.file(mapped, "seed-3.png")), pixels(data))

    record = json.loads(Image.open(io.BytesIO(data)).info["t2i"])
    assert record["request"]["references"][0]["picture"]["path"] == "look.png"
    found = server.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert found["not_restored"] == []
    digest = hashlib.sha256((tmp_path / "look.png").read_bytes()).hexdigest()
    assert found["pictures"] == [{"field": "reference.image", "name": "look.png", "sha256": digest}]
    assert found["request"]["reference"] == settings
    found["request"]["reference"]["image"] = reference["image"]
    again = server.run("generate", **found["request"])
    assert np.array_equal(pixels(server.file(again, "seed-3.png")), pixels(data))


def test_the_command_of_a_request_names_its_reference(tmp_path: Path) -> None:
    catalogue = build_catalogue(ServerSettings(folder=tmp_path))
    choice = {"image": "A" * 22, "scale": 0.5, "prompt": "a dog"}
    new = GenerateJob.model_validate(
        {"kind": "generate", "request": {"prompt": PROMPT, "reference": choice}}
    )
    command = shlex.split(build_export_answer(new, catalogue).command)
    assert command[3:] == ["--reference", "reference.png:scale=0.5,steps=0-1,prompt=a dog"]


def test_a_reference_counts_as_a_run(tmp_path: Path) -> None:
    catalogue = build_catalogue(ServerSettings(folder=tmp_path))
    hint().save(tmp_path / "look.png")
    new = GenerateJob.model_validate(
        {
            "kind": "generate",
            "request": {"prompt": PROMPT, "reference": {"image": "A" * 22}, **RUN},
        }
    )
    built = resolve_job_request(new.request, catalogue, lambda _: tmp_path / "look.png")
    check_pixel_steps_limit(built, 1, catalogue, 128 * 128 * 2 * 2)
    with pytest.raises(ArgumentError, match="this server takes up to"):
        check_pixel_steps_limit(built, 1, catalogue, 128 * 128 * 2 * 2 - 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale": -1}, "Got --reference with scale=-1"),
        ({"steps": [0.6, 0.2]}, "Got --reference with steps=0.6-0.2"),
        ({"prompt": "(cat"}, "cat"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    choice = ReferenceChoice.model_validate({"image": "A" * 22, **settings})
    new = GenerateJob.model_validate(
        {"kind": "generate", "request": {"prompt": PROMPT, "reference": choice}}
    )
    catalogue = build_catalogue(ServerSettings(folder=tmp_path))
    with pytest.raises(ArgumentError, match=words):
        resolve_job_request(new.request, catalogue, lambda _: tmp_path / "look.png")
