"""The API as a whole: its OpenAPI holds, and what is beside the jobs says what the model says."""

import io
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import schemathesis
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from safetensors.numpy import save_file
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from t2i.errors import ModelError
from t2i.server.api.tokens import load_token_window
from t2i.server.app import create_app
from t2i.server.settings import ServerSettings
from tests.server.conftest import Idle
from tests.server.servers import RunningServer

OTHER_APIS = ("/sdapi/", "/internal/", "/v1/")
EXAMPLES = 6
"""Requests that are made up for each route; more find more, and take longer."""


def test_no_request_makes_the_server_fail_or_answer_otherwise_than_it_says(
    tmp_path: Path,
) -> None:
    chosen = ServerSettings(
        folder=tmp_path / "served", max_queued=10_000, allowed_hosts=("testserver",)
    )
    app = create_app(chosen)

    async def without_workers(scope, receive, send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    try:
        schema = schemathesis.openapi.from_asgi("/openapi.json", without_workers)
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) > 15
        for operation in operations:
            if operation.path.startswith(OTHER_APIS):
                continue  # tests/server/compat/test_openapi.py
            if not operation.path.endswith("/events"):  # of jobs that nobody runs they never end
                run_cases(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
                with suppress(Unsatisfiable):  # a route without parameters
                    run_cases(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    finally:
        app.state.server.close()


CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


def run_cases(strategy) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case) -> None:
        case.validate_response(case.call(base_url="http://testserver"), checks=list(CHECKS))

    run()


def test_tokens_and_words_are_those_of_the_models_encoder(idle: Idle) -> None:
    client = idle()
    prompt = "a (Red:1.2) apple, " + "and a cat " * 40
    told = client.post("/api/v1/tokens", json={"prompt": prompt}).json()
    red = told["words"][1]
    assert (red["text"], red["weight"], red["tokens"]) == ("Red", 1.2, [2])
    assert prompt[red["start"] : red["end"]] == "Red"
    assert told["windows"] > 1
    assert {token["window"] for token in told["tokens"]} == {*range(told["windows"])}
    assert told["truncated"] == []
    positions = [token["position"] for token in told["tokens"]]
    assert positions == sorted(set(positions))
    plain = client.post("/api/v1/tokens", json={"prompt": "(red:1.2)", "grammar": "plain"}).json()
    assert plain["words"][0]["weight"] == 1.0
    wrong = client.post("/api/v1/tokens", json={"prompt": "(red"})
    assert wrong.status_code == 422
    assert "never closed" in wrong.json()["error"]["message"]


def test_tokens_of_a_model_in_one_file_are_those_of_clip(
    idle: Idle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path
) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": np.zeros((1, 4, 3, 3))}, model)
    storage = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client = idle(models=(str(model),))
    asked = {"prompt": "a (red:1.2) apple"}
    answer = client.post("/api/v1/tokens", json=asked)
    assert answer.status_code == 422
    assert "A single file carries no vocabulary" in answer.json()["error"]["message"]
    shutil.copytree(repo / "t2i/assets/tokenizer", storage / "snapshots" / ("0" * 40))
    told = client.post("/api/v1/tokens", json=asked).json()
    assert [word["text"] for word in told["words"]] == ["a", "red", "apple"]
    assert told["words"][1]["tokens"] == [2]
    assert told["window_size"] == 77


def test_a_model_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="The model x has no tokenizer"):
        load_token_window(tmp_path / "x")


def test_models_samplers_and_adapters_are_listed(idle: Idle, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    (folder / "styles" / "ink.safetensors").write_bytes(b"")
    client = idle(lora_folder=folder)
    first = client.get("/api/v1/models").json()["models"][0]
    assert (first["name"], first["default"]) == ("embedded", True)
    assert (first["width"], first["height"], first["steps"]) == (128, 128, 10)
    samplers = client.get("/api/v1/samplers").json()["samplers"]
    assert {"ddim", "euler karras"} <= set(samplers)
    assert client.get("/api/v1/loras").json() == {"loras": ["styles/ink"], "embeddings": []}


def test_metadata_give_the_request_that_draws_the_picture_again(
    server: RunningServer, repo: Path
) -> None:
    request = {"prompt": "a (red:1.2) apple", "steps": 2, "seed": 5, "negative_prompt": "a cat"}
    job = server.run("generate", **request)
    data = server.file(job, "seed-5.png")
    told = server.post("/api/v1/metadata", files={"file": ("a.png", data)}).json()
    assert told["kind"] == "generate"
    again = server.run(told["kind"], **told["request"])
    assert server.file(again, "seed-5.png") == data
    answer = server.post(
        "/api/v1/metadata",
        files={"file": ("car.webp", (repo / "docs/images/car.webp").read_bytes())},
    )
    assert answer.status_code in (200, 422)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    none = server.post("/api/v1/metadata", files={"file": ("b.png", stream.getvalue())})
    assert none.status_code == 422
    assert none.json()["error"]["message"].startswith("b.png has no generation metadata")


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("generate", {"prompt": "a (red:1.2) apple", "seed": 5, "steps": 2}),
        ("generate", {"prompt": "-a cat's 'hat'", "seed": 5, "steps": 2, "sampler": "euler"}),
        (
            "edit",
            {
                "source_prompt": "a cat",
                "targets": ["a dog"],
                "weights": {"dog": 2.0},
                "seed": 5,
                "steps": 2,
                "cross_replace": 0.5,
                "blend": "none",
            },
        ),
    ],
)
def test_the_command_and_the_python_draw_the_same_picture(
    server: RunningServer,
    kind: str,
    request_: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = server.run(kind, **request_)
    name = "seed-5.png" if kind == "generate" else "target-1.png"
    expected = np.asarray(Image.open(io.BytesIO(server.file(job, name))))
    told = server.post("/api/v1/export", json={"kind": kind, "request": request_}).json()
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(told["command"])[1:], "--out", "commands"]) == 0
    (path,) = Path("commands").glob("*.png" if kind == "generate" else "*-target.png")
    assert (np.asarray(Image.open(path)) == expected).all()
    values: dict[str, object] = {}
    exec(told["python"], values)
    image = values.get("image")
    if image is None:
        (path,) = Path("outputs").glob("*.png" if kind == "generate" else "*-target.png")
        image = Image.open(path)
    assert (np.asarray(image) == expected).all()
    body = httpx.Response(200, text=told["request"]).json()
    assert body["kind"] == kind
    assert body["request"] == request_


def test_training_runs_are_shown_and_nothing_else_of_their_folder(
    idle: Idle, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    (runs / "berry" / "samples").mkdir(parents=True)
    (runs / "other").mkdir()
    log = '{"step": 1, "loss": 0.5}\n{"step": 2, "validation_loss": 0.4}\n{"step": 3, "lo'
    (runs / "berry" / "log.jsonl").write_text(log)
    (runs / "berry" / "config.json").write_text('{"train": {"steps": 100}}')
    Image.new("RGB", (8, 8)).save(runs / "berry" / "samples" / "00000001.png")
    (runs / "berry" / "samples" / "secret.txt").write_text("x")
    client = idle(runs_folder=runs)
    (run,) = client.get("/api/v1/runs").json()["runs"]
    assert (run["name"], run["steps"]) == ("berry", 100)
    told = client.get("/api/v1/runs/berry").json()
    assert told["records"] == [{"step": 1, "loss": 0.5}, {"step": 2, "validation_loss": 0.4}]
    assert told["sheets"] == ["00000001.png"]
    sheet = client.get("/api/v1/runs/berry/sheets/00000001.png")
    assert sheet.headers["content-type"] == "image/png"
    for path in ("berry/sheets/secret.txt", "berry/sheets/..%2Flog.jsonl", "..", "other", "%2e%2e"):
        assert client.get(f"/api/v1/runs/{path}").status_code == 404


def test_the_page_of_python_in_the_docs_runs(
    server: RunningServer, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", (repo / "docs/server.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    code = code.replace("http://127.0.0.1:7878", server.url).replace(
        '"seed": 7', '"seed": 7, "steps": 2'
    )
    exec(code, {})
    assert Image.open("seed-7.png").size == (128, 128)
    assert Path("maps.safetensors").is_file()


def test_the_servers_own_process_imports_no_large_library(repo: Path) -> None:
    code = "import sys, t2i.server.running; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, timeout=60)
    assert done.returncode == 0
