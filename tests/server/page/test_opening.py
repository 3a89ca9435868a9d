"""`--open` with a token: the browser is given a file, and the page opens in a real browser."""

import os
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.server.servers import start_server

pytestmark = pytest.mark.slow
SECRET = "a-secret-of-this-test"


@pytest.mark.timeout(300)
def test_the_token_is_in_no_command_and_the_page_opens(browser: Any, tmp_path: Path) -> None:
    called = tmp_path / "called"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$@" > {called}.part\nmv {called}.part {called}\n')
    script.chmod(0o700)
    environment = {"BROWSER": str(script), "T2I_TOKEN": SECRET}
    with start_server(
        tmp_path / "served", "--open", ready=False, environment=environment
    ) as server:
        end = time.monotonic() + 60
        while not called.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        given = called.read_text().strip()
        assert SECRET not in given
        path = Path(urlsplit(given).path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == os.getuid()
        assert SECRET in path.read_text()
        tree = [psutil.Process(server.process.pid)]
        tree += tree[0].children(recursive=True)
        assert SECRET not in str([one.cmdline() for one in tree])

        context = browser.new_context()
        page = context.new_page()
        page.goto(given)
        page.wait_for_url(f"{server.url}/")
        page.wait_for_selector("#tokens")
        assert page.evaluate("fetch('api/v1/jobs').then((answer) => answer.status)") == 200
        context.close()
        server.process.terminate()
        server.process.wait(60)
        assert not path.exists()
