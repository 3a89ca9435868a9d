"""One server for all tests of a process: starting its worker takes seconds."""

from collections.abc import Iterator

import pytest

from tests.server.servers import RunningServer, start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without tokens, with the embedded model loaded."""
    with start_server(tmp_path_factory.mktemp("served")) as running:
        yield running
