"""One server for all tests of a process: starting its worker takes seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from t2i.server.app import create_app
from t2i.server.settings import ServerSettings
from tests.server.jobs_alone import ServerJobs
from tests.server.servers import RunningServer, start_server

HERE = Path(__file__).parent
Idle = Callable[..., TestClient]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without tokens, with the embedded model loaded."""
    with start_server(tmp_path_factory.mktemp("served")) as running:
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
