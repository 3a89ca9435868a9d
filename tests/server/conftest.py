"""One server for all tests of a process: starting its worker takes seconds."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.server.app import create_app
from t2i.server.settings import ServerSettings
from tests.server.jobs_alone import ServerJobs
from tests.server.loras import write_control_network, write_lora
from tests.server.servers import RunningServer, fork_server

PRESETS: dict[str, Any] = {
    "fast": {
        "steps": 2,
        "guidance_scale": 1.0,
        "sampler": "lcm",
        "loras": [{"path": "quick/fast.safetensors", "scale": 0.5}],
        "cost": {"time": 0.25, "said": -0.4, "said_interval": [-1.9, 1.1], "captions": 480},
    },
    "cut": {"steps": 4, "guidance_method": "cfg:stop=0.5", "cache": ["deep:every=2"]},
}
HERE = Path(__file__).parent
Idle = Callable[..., TestClient]


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of one training run."""
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "cats"
    run.mkdir()
    records: list[dict[str, Any]] = [{"step": k, "loss": 1 / k, "time": 0.0} for k in range(1, 41)]
    records.append({"step": 40, "validation_loss": 0.05, "validation_by_level": [0.05]})
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (run / "samples").mkdir()
    for step, colour in ((20, "navy"), (40, "orange")):
        Image.new("RGB", (256, 64), colour).save(run / "samples" / f"step-{step}.png")
    return folder


@pytest.fixture(scope="session")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one LoRA, styles/ink."""
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "styles" / "ink.safetensors")
    return folder


@pytest.fixture(scope="session")
def control_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one ControlNet of the embedded model, kinds/canny."""
    folder = tmp_path_factory.mktemp("controls")
    write_control_network(folder / "kinds" / "canny")
    return folder


@pytest.fixture(scope="session")
def preset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded model with presets."""
    folder = tmp_path_factory.mktemp("presets") / "with-presets"
    shutil.copytree(EMBEDDED_MODELS["embedded"], folder)
    write_lora(folder / "quick" / "fast.safetensors")
    notes = json.loads((folder / "t2i.json").read_text())
    (folder / "t2i.json").write_text(json.dumps(notes | {"presets": PRESETS}, indent=1) + "\n")
    return folder


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    runs_folder: Path,
    lora_folder: Path,
    control_folder: Path,
    preset_folder: Path,
) -> Iterator[RunningServer]:
    """A server without tokens, with the embedded model loaded; it shows the runs and the LoRA, and
    has a model with presets beside it.
    """
    options = ["--model", "embedded", "--model", str(preset_folder)]
    options += ["--runs", str(runs_folder), "--lora-dir", str(lora_folder)]
    options += ["--control-dir", str(control_folder)]
    with fork_server(tmp_path_factory.mktemp("served"), *options) as running:
        yield running


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[ServerJobs]:
    """The jobs of a server without routes and workers; three may wait."""
    made = ServerJobs(folder=tmp_path / "served", max_queued=3)
    yield made
    made.state.close()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Idle]:
    """Clients of applications without a worker, in this process: what waits, waits."""
    made = []

    def make(headers: dict[str, str] | None = None, **settings: Any) -> TestClient:
        folder = settings.pop("folder", tmp_path / "served")
        app = create_app(ServerSettings(folder=folder, **settings))
        made.append(app)
        return TestClient(
            app, base_url="http://127.0.0.1:7878", headers=headers, raise_server_exceptions=False
        )

    yield make
    for app in made:
        app.state.server.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a process waits for the server too: that does not count as its own time."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))
