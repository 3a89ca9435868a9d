"""The shared server, as clients of the compatible APIs need it."""

import pytest

from tests.server.servers import RunningServer


@pytest.fixture(scope="session")
def address(server: RunningServer) -> str:
    """Address of the server, without a slash at its end."""
    return server.url
