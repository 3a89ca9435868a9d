"""The compatible APIs answer made-up requests as their OpenAPI says."""

from contextlib import suppress
from pathlib import Path

import schemathesis
from hypothesis.errors import Unsatisfiable

from t2i.server.app import create_app
from t2i.server.settings import ServerSettings
from tests.server.test_api import OTHER_APIS, run_cases


def test_no_request_makes_the_server_fail_or_answer_otherwise_than_it_says(
    tmp_path: Path,
) -> None:
    # Nothing may wait, so that no request waits for a job that nobody runs.
    chosen = ServerSettings(folder=tmp_path / "served", max_queued=0, allowed_hosts=("testserver",))
    app = create_app(chosen)

    async def without_workers(scope, receive, send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    try:
        schema = schemathesis.openapi.from_asgi("/openapi.json", without_workers)
        operations = [result.ok() for result in schema.get_all_operations()]
        other = [one for one in operations if one.path.startswith(OTHER_APIS)]
        assert len(other) > 30
        for operation in other:
            for mode in schemathesis.GenerationMode:
                with suppress(Unsatisfiable):  # a route without fields has no wrong ones
                    run_cases(operation.as_strategy(generation_mode=mode))
    finally:
        app.state.server.close()
