"""What Ray Serve's workers do, without Ray: jobs that travel with their pictures."""

import base64
import importlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from t2i.cli import main
from t2i.errors import ArgumentError
from t2i.server.jobs.job import JobFailure, QueueFullError
from t2i.server.ray.deployments import PictureWorker, ServeArguments, app, build_settings
from t2i.server.ray.inline_job import InlineJob
from t2i.server.ray.routes import create_replica_app

TOKEN = "opensesame"


@pytest.fixture(scope="module")
def worker() -> PictureWorker:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2I_TOKEN", TOKEN)
        patch.setattr("sys.setswitchinterval", lambda _seconds: None)  # of the whole process
        return PictureWorker(build_settings(ServeArguments()))


@pytest.fixture
def client(worker: PictureWorker, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("T2I_TOKEN", TOKEN)
    made = create_replica_app(build_settings(ServeArguments()), worker.draw)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(made, base_url="http://127.0.0.1:8000", headers=headers) as client:
        yield client


def run(client: TestClient, kind: str, **request: object):
    return client.post("/api/v1/run", json={"kind": kind, "request": request})


def as_url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def test_a_run_is_answered_with_the_file_of_the_command_line(
    client: TestClient, tmp_path: Path
) -> None:
    answer = run(client, "generate", prompt="a cat", seed=3, steps=2)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["seeds"] == [3]
    (file,) = told["files"]
    assert (file["name"], file["media_type"], file["seed"]) == ("seed-3.png", "image/png", 3)
    path = tmp_path / "cat.png"
    assert main(["generate", "a cat", "--seed", "3", "--steps", "2", "--out", str(path)]) == 0
    assert base64.b64decode(file["base64"]) == path.read_bytes()


def test_a_picture_travels_in_its_request(client: TestClient) -> None:
    photo = as_url(Image.new("RGB", (128, 128), "red"))
    asked = {"prompt": "a cat", "seed": 3, "steps": 4, "image": photo, "strength": 0.5}
    told = run(client, "generate", **asked).json()
    assert told["data"]["request"]["image"]["path"] == "image.png"
    image = Image.open(io.BytesIO(base64.b64decode(told["files"][0]["base64"])))
    assert image.size == (128, 128)
    assert image.getpixel((2, 2))[0] > 120  # still the red of the photo


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        ("generate", {"prompt": "(a cat"}, "never closed"),
        (
            "generate",
            {"prompt": "a cat", "steps": 10_000, "width": 1024, "height": 1024},
            "this server takes up to",
        ),
        ("generate", {"prompt": "a cat", "image": "A" * 22}, "request.image: String should match"),
        (
            "generate",
            {"prompt": "a cat", "image": "data:image/png;base64,AA"},
            "The base64 of image cannot be decoded",
        ),
        (
            "generate",
            {"prompt": "a cat", "image": "data:image/png;base64,AAAA"},
            "image.png",
        ),
        (
            "edit",
            {"source": "A" * 22, "targets": ["a dog"]},
            "a recording lies on one machine",
        ),
        ("invert", {"prompt": "a cat"}, "'invert' found using 'kind' does not match"),
        ("inspect", {"prompt": "a cat", "words": ["dog"], "steps": 1}, "dog"),
    ],
)
def test_what_cannot_be_run_is_refused_in_the_command_lines_words(
    client: TestClient, kind: str, request_: dict[str, object], message: str
) -> None:
    answer = run(client, kind, **request_)
    assert answer.status_code == 422, answer.text
    assert message in answer.json()["error"]["message"]


def test_without_the_token_nothing_is_run(client: TestClient) -> None:
    del client.headers["authorization"]
    assert run(client, "generate", prompt="a cat").status_code == 401
    assert client.get("/api/v1/health").json()["ready"]


def test_names_and_tokens_of_prompts_are_answered_by_the_gate(client: TestClient) -> None:
    assert client.get("/api/v1/models").json()["models"][0]["default"]
    told = client.post("/api/v1/tokens", json={"prompt": "a cat"}).json()
    assert [word["text"] for word in told["words"]] == ["a", "cat"]
    assert "/api/v1/run" in client.get("/openapi.json").json()["paths"]


def test_a_full_queue_and_a_fault_of_a_worker_have_their_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("T2I_TOKEN", TOKEN)

    async def draw(job: InlineJob) -> JobFailure:
        if job.seeds == (1,):
            raise QueueFullError("1 job waits already: try again in 5 seconds.", 5)
        return JobFailure("RuntimeError", "RuntimeError: broken")

    made = create_replica_app(build_settings(ServeArguments()), draw)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client = TestClient(made, base_url="http://127.0.0.1:8000", headers=headers)
    full = run(client, "generate", prompt="a cat", seed=1)
    assert (full.status_code, full.headers["retry-after"]) == (429, "5")
    assert run(client, "generate", prompt="a cat", seed=2).status_code == 500


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "Missing T2I_TOKEN in the environment"), ("abc", "Got a T2I_TOKEN of 3 characters")],
)
def test_a_cluster_needs_a_secret(
    monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    monkeypatch.setenv("T2I_TOKEN", token)
    with pytest.raises(ArgumentError, match=message):
        build_settings(ServeArguments())


def test_without_ray_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"needs Ray Serve.*pip install.*ray"):
        app(ServeArguments())


def test_the_config_file_deploys_what_there_is(repo: Path) -> None:
    (told,) = yaml.safe_load((repo / "configs/serve/ray.yaml").read_text())["applications"]
    assert ServeArguments.model_validate(told["args"]).models == ["embedded"]
    module, _, name = told["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is app
    assert {one["name"] for one in told["deployments"]} == {"PictureWorker", "Gate"}
