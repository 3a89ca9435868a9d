"""Controls through the API and on the command line: the same pictures; what cannot be used."""

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from t2i.cli.request.image_prompt_files import ImagePromptFiles
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import locate_control_network
from t2i.errors import ArgumentError
from t2i.server.catalogue import Catalogue, build_catalogue, list_control_networks
from t2i.server.jobs.job_request import ControlChoice
from t2i.server.jobs.request_building import (
    ResolvedJobRequest,
    check_pixel_steps_limit,
    read_control_choice,
)
from t2i.server.settings import ServerSettings
from tests.cli.carrying import png
from tests.pipelines.controls.networks import hint
from tests.server.conftest import Idle
from tests.server.loras import write_control_network
from tests.server.servers import RunningServer

PROMPT = "a cat and a balloon"
RUN = {"seed": 3, "steps": 2, "guidance_scale": 3, "width": 128, "height": 128}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hint and a mask."""
    folder = tmp_path_factory.mktemp("pictures")
    hint(1, (128, 128)).save(folder / "edges.png")
    half = Image.new("L", (128, 128))
    half.paste(255, (64, 0, 128, 128))
    half.save(folder / "half.png")
    return folder


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return build_catalogue(ServerSettings(folder=tmp_path))


def test_a_control_is_the_same_by_api_and_command(
    server: RunningServer, control_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    assert server.get("/api/v1/controls").json() == {"controls": ["kinds/canny", "segments"]}
    upload, mask = (server.upload(pictures / name) for name in ("edges.png", "half.png"))
    control = {"name": "kinds/canny", "image": upload, "mask": mask}
    control |= {"scale": 0.8, "steps": [0, 0.6], "mode": "prompt", "blocks": ["down.0", "mid"]}
    job = server.run("generate", prompt=PROMPT, controls=[control], **RUN)
    plain = server.run("generate", prompt=PROMPT, **RUN)
    data = server.file(job, "seed-3.png")
    assert not np.array_equal(pixels(data), pixels(server.file(plain, "seed-3.png")))
    settings = f"scale=0.8,steps=0-0.6,mode=prompt,mask={pictures / 'half.png'},blocks=down.0+mid"
    value = f"{control_folder / 'kinds' / 'canny'}:{pictures / 'edges.png'}:{settings}"
    words = ["generate", PROMPT, "--control", value, "--steps", "2", "--seed", "3"]
    assert main([*words, "--guidance", "3", "--out", str(tmp_path / "a.png")]) == 0
    assert np.array_equal(pixels(data), np.asarray(Image.open(tmp_path / "a.png")))

    # What the picture records names the files as they were called, and says what is not restored.
    record = json.loads(Image.open(io.BytesIO(data)).info["t2i"])
    (recorded,) = record["request"]["controls"]
    assert (recorded["picture"]["path"], recorded["mask"]["path"]) == ("edges.png", "half.png")
    found = server.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert found["not_restored"] == []
    needed = {one["field"]: (one["name"], one["sha256"]) for one in found["pictures"]}
    assert needed == {
        f"controls.0.{field}": (name, hashlib.sha256((pictures / name).read_bytes()).hexdigest())
        for field, name in (("image", "edges.png"), ("mask", "half.png"))
    }
    (restored,) = found["request"]["controls"]
    assert restored == {name: control[name] for name in restored}
    assert {"name", "scale", "steps", "mode", "blocks"} <= restored.keys()
    found["request"]["controls"] = [restored | {"image": upload, "mask": mask}]
    again = server.run("generate", **found["request"])
    assert np.array_equal(pixels(server.file(again, "seed-3.png")), pixels(data))


def test_a_recorded_control_is_found_by_its_name_and_contents(
    idle: Idle, control_folder: Path, tmp_path: Path
) -> None:
    client = idle(control_folder=control_folder)
    controls = [
        {"model": {"path": "/x/depth.safetensors"}, "picture": {"path": "d.png"}},
        {"model": {"path": "/x/canny", "sha256": "1" * 64}, "picture": {"path": "c.png"}},
        {"model": {"path": "/x/canny"}, "picture": {"path": "e.png"}, "type": "depth"},
    ]
    request = {"prompt": PROMPT, "model": "embedded", "controls": controls}
    texts = {"version": 1, "request": request, "seed": 1, "model_digest": "0" * 64}
    path = png(tmp_path / "a.png", {"t2i": json.dumps(texts)})
    file = ("a.png", path.read_bytes())
    found = client.post("/api/v1/metadata", files={"file": file}).json()
    assert found["not_restored"] == [
        "the control depth, which is not among the server's",
        "the control canny, which has other contents here",
    ]
    (restored,) = found["request"]["controls"]
    assert (restored["name"], restored["type"]) == ("kinds/canny", "depth")
    # Numbered among the controls of the job, not of the picture.
    assert [one["field"] for one in found["pictures"]] == ["controls.0.image"]
    assert [one["name"] for one in found["pictures"]] == ["e.png"]


def test_edits_of_a_recorded_source_use_its_controls_again(
    server: RunningServer, pictures: Path
) -> None:
    controls = [{"name": "kinds/canny", "image": server.upload(pictures / "edges.png")}]
    words = {"targets": ["a dog and a balloon"]}
    drawn = server.run("edit", source_prompt=PROMPT, controls=controls, **words, **RUN)
    kept = server.run("remember", prompt=PROMPT, controls=controls, **RUN)
    edited = server.run("edit", source=kept["id"], **words)
    assert np.array_equal(
        pixels(server.file(drawn, "source.png")), pixels(server.file(kept, "seed-3.png"))
    )
    targets = [pixels(server.file(job, "target-1.png")).astype(int) for job in (drawn, edited)]
    assert abs(targets[0] - targets[1]).max() <= 2  # another batch rounds otherwise


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "depth"}, "Unknown control 'depth'."),
        ({"name": "../secret"}, "Unknown control '../secret'."),
        ({"scale": 1e9}, "Got --control with scale=1000000000.0: expected a finite number"),
        ({"steps": [0.6, 0.2]}, "Got --control with steps=0.6-0.2: expected shares of the run"),
        ({"mode": "strong"}, "mode: Input should be 'balanced', 'prompt', 'control' or 'guess'"),
        ({"blocks": [""]}, "Got --control with an empty name in blocks"),
        ({"image": "../../x"}, "image: String should match pattern"),
        ({"image": "A" * 22}, "No upload 'AAAAAAAAAAAAAAAAAAAAAA': it has expired"),
        ({"step": 1}, "step: Extra inputs are not permitted"),
    ],
)
def test_controls_that_cannot_be_used_are_refused(
    idle: Idle, control_folder: Path, pictures: Path, change: dict, words: str
) -> None:
    client = idle(control_folder=control_folder)
    with (pictures / "edges.png").open("rb") as file:
        upload = client.post("/api/v1/uploads", files={"file": ("edges.png", file)}).json()["id"]
    control = {"name": "kinds/canny", "image": upload} | change
    job = {"kind": "generate", "request": {"prompt": PROMPT, "controls": [control]}}
    answer = client.post("/api/v1/jobs", json=job)
    assert answer.status_code in (404, 422)
    assert words in answer.json()["error"]["message"]
    assert client.get("/api/v1/jobs").json() == {"jobs": []}


def test_a_request_with_controls_is_exported_as_a_command(idle: Idle, control_folder: Path) -> None:
    control = {"name": "kinds/canny", "image": "A" * 22, "mask": "B" * 22, "steps": [0, 0.5]}
    job = {"kind": "generate", "request": {"prompt": PROMPT, "controls": [control]}}
    told = idle(control_folder=control_folder).post("/api/v1/export", json=job).json()
    path = control_folder / "kinds" / "canny"
    settings = "scale=1,steps=0-0.5,mode=balanced,mask=mask.png"
    assert f"--control {path}:hint.png:{settings}" in told["command"]
    assert "main(" in told["python"]


def test_networks_are_listed_as_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "edges" / "canny").mkdir(parents=True)
    for name in ("config.json", "edges/canny/config.json", "edges/canny/a.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "edges" / "depth.safetensors").write_bytes(b"")
    listed = list_control_networks(tmp_path)
    assert listed == {
        "edges/canny": tmp_path / "edges" / "canny",
        "edges/depth": tmp_path / "edges" / "depth.safetensors",
    }
    assert list_control_networks(tmp_path / "absent") == {}


def test_a_network_that_lies_directly_in_the_folder_is_listed_by_the_folder_s_name(
    tmp_path: Path, idle: Idle
) -> None:
    folder = tmp_path / "canny"
    write_control_network(folder)
    (folder / "depth").mkdir()
    (folder / "depth" / "config.json").write_text("{}")
    listed = list_control_networks(folder)
    assert listed == {"canny": folder, "depth": folder / "depth"}
    client = idle(control_folder=folder)
    assert set(client.get("/api/v1/controls").json()["controls"]) == {
        *("segments", "canny", "depth")
    }


def test_a_network_of_the_server_is_none_of_the_package_s_also_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_control_network(tmp_path / "segments")
    for folder in (Path(), Path("segments")):
        settings = ServerSettings(folder=tmp_path / "data", control_folder=folder)
        choice = ControlChoice(name="segments", image="A" * 22)
        taken = read_control_choice(choice, build_catalogue(settings), Path)
        assert locate_control_network(taken.model.path) == tmp_path / "segments"


def test_two_networks_of_one_name_are_refused_when_the_server_starts(tmp_path: Path) -> None:
    folder = tmp_path / "canny"
    (folder / "canny").mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    (folder / "canny" / "config.json").write_text("{}")
    settings = ServerSettings(folder=tmp_path / "data", control_folder=folder)
    named = f"two networks have the name 'canny': {folder} and {folder / 'canny'}. Rename one"
    with pytest.raises(ArgumentError, match=re.escape(named)):
        build_catalogue(settings)
    # A file beside a folder, too.
    (folder / "config.json").unlink()
    (folder / "canny.safetensors").write_bytes(b"")
    named = f"'canny': {folder / 'canny.safetensors'} and {folder / 'canny'}. Rename one"
    with pytest.raises(ArgumentError, match=re.escape(named)):
        build_catalogue(settings)


def test_a_file_in_place_of_the_folder_of_networks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "canny.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"canny.safetensors, which is a file: expected the fo"):
        list_control_networks(file)


@pytest.mark.parametrize(
    ("steps", "factor", "taken"),
    [((0.0, 1.0), "1.5", False), ((0.0, 0.5), "1.25", False), ((0.0, 0.1), "", True)],
)
def test_controls_count_among_the_work_of_a_request(
    idle: Idle,
    control_folder: Path,
    pictures: Path,
    steps: tuple[float, float],
    factor: str,
    taken: bool,
) -> None:
    """Ten steps with a control are up to fifteen without."""
    client = idle(control_folder=control_folder, max_pixels_x_steps=128 * 128 * 11)
    with (pictures / "edges.png").open("rb") as file:
        upload = client.post("/api/v1/uploads", files={"file": ("edges.png", file)}).json()["id"]
    control = {"name": "kinds/canny", "image": upload, "steps": steps}
    request = {"prompt": PROMPT, "width": 128, "height": 128, "steps": 10}
    job = {"kind": "generate", "request": request | {"controls": [control]}}
    answer = client.post("/api/v1/jobs", json=job)
    assert (answer.status_code == 202) == taken
    if not taken:
        told = f"with 1 control, which make a step cost {factor} times as much"
        assert told in answer.json()["error"]["message"]
        assert "fewer controls" in answer.json()["error"]["message"]
    assert client.post("/api/v1/jobs", json=job | {"request": request}).status_code == 202


def test_image_prompts_count_among_the_work_of_a_request(catalogue: Catalogue) -> None:
    """No job of the server takes any yet; a recorded source may have them."""
    file = InputFile(path="a.png")
    prompts = (ImagePromptFiles(adapter=file, picture=file),) * 2
    request = Request(prompt=PROMPT, width=128, height=128, num_inference_steps=10)
    plain = ResolvedJobRequest(request, (PROMPT,))
    check_pixel_steps_limit(plain, 1, catalogue, 128 * 128 * 10)
    seeing = ResolvedJobRequest(replace(request, image_prompts=prompts), (PROMPT,))
    with pytest.raises(ArgumentError, match=r"with 2 image prompts, .* cost 1.1 times"):
        check_pixel_steps_limit(seeing, 1, catalogue, 128 * 128 * 10)
