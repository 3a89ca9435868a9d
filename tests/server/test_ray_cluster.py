"""Two workers behind a real Ray Serve, as configs/serve/ray.yaml deploys them."""

import base64
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from t2i.cli import main

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: pip install -c constraints.txt -e '.[ray]'",
    ),
]
TOKEN = "opensesame"
PATIENCE = 1800.0
"""Seconds that a cluster may take to start on a busy machine."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Iterator[httpx.Client]:
    """A client of the config's application, on a cluster of this machine alone."""
    import yaml

    place = tmp_path_factory.mktemp("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load((repo / "configs/serve/ray.yaml").read_text())
    config["http_options"]["port"] = port
    (place / "ray.yaml").write_text(yaml.safe_dump(config))
    log = (place / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.serve.scripts", "run", str(place / "ray.yaml")],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=repo,
        start_new_session=True,
        env=os.environ
        | {
            "HOME": str(place),  # Ray writes a secret of its cluster there
            "T2I_TOKEN": TOKEN,
            "PYTHONPATH": str(repo),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, timeout=600
        ) as client:
            end = time.monotonic() + PATIENCE
            while not answers(client):
                assert process.poll() is None, (place / "log").read_text()
                assert time.monotonic() < end, (place / "log").read_text()
                time.sleep(1)
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def draw(client: httpx.Client, seed: int) -> dict:
    body = {"kind": "generate", "request": {"prompt": "a cat", "seed": seed, "steps": 4}}
    return client.post("/run", json=body).raise_for_status().json()


def test_two_replicas_draw_what_the_command_line_draws(
    cluster: httpx.Client, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda seed: draw(cluster, seed), range(8)))
    for seed, told in enumerate(results):
        assert [file["name"] for file in told["files"]] == [f"seed-{seed}.png"]
    workers = {told["data"]["worker"] for told in results}
    assert len(workers) == 2, "one of the replicas has drawn nothing"
    path = tmp_path / "cat.png"
    assert main(["generate", "a cat", "--seed", "5", "--steps", "4", "--out", str(path)]) == 0
    assert base64.b64decode(results[5]["files"][0]["base64"]) == path.read_bytes()


def test_errors_and_access_are_those_of_the_server(cluster: httpx.Client) -> None:
    body = {"kind": "generate", "request": {"prompt": "(a cat"}}
    refused = cluster.post("/run", json=body)
    assert refused.status_code == 422
    assert "never closed" in refused.json()["error"]["message"]
    assert httpx.post(f"{cluster.base_url}run", json=body).status_code == 401
