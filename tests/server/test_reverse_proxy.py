"""Behind a reverse proxy: below a path, under another name, whether or not it cuts the path."""

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.conftest import Idle

HOST = {"Host": "pictures.example"}
ROOT = "/t2i"


@pytest.fixture(params=["passes the path on", "cuts the path"])
def proxied(request: pytest.FixtureRequest, idle: Idle) -> Any:
    """Ask a server below /t2i through a proxy: path -> answer."""
    app = idle(root_path=ROOT, allowed_hosts=("pictures.example",), tokens=("secret",)).app
    client = TestClient(app, base_url="http://127.0.0.1:7878", headers=HOST)

    def ask(path: str, method: str = "GET", **arguments: Any) -> Any:
        assert path.startswith(f"{ROOT}/")
        inner = path.removeprefix(ROOT) if request.param == "cuts the path" else path
        return client.request(method, inner, **arguments)

    return ask


def test_the_page_its_modules_and_the_api_are_below_the_path(proxied: Any) -> None:
    assert proxied("/t2i/api/v1/jobs").status_code == 401
    answer = proxied("/t2i/?token=secret")
    assert "Path=/t2i/;" in answer.headers["set-cookie"]
    assert "url=/t2i/" in answer.text
    headers = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    page = proxied("/t2i/", headers=headers)
    assert page.status_code == 200
    names = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert "app/main.js" in names
    for name in names:
        assert not name.startswith("/")
        assert proxied(f"/t2i/{name}", headers=headers).status_code == 200, name
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    taken = proxied("/t2i/api/v1/jobs", "POST", json=job, headers=headers)
    assert taken.status_code == 202
    assert proxied(f"/t2i/api/v1/jobs/{taken.json()['id']}", headers=headers).status_code == 200


def test_the_documents_of_the_api_name_the_path(proxied: Any) -> None:
    headers = {"Authorization": "Bearer secret"}
    document = proxied("/t2i/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": ROOT}]
    assert proxied("/t2i/docs", headers=headers).status_code == 200


def test_the_other_apis_are_below_the_path_too(proxied: Any) -> None:
    headers = {"Authorization": "Bearer secret"}
    for path in ("/sdapi/v1/samplers", "/v1/models", "/sdapi/v1/cmd-flags"):
        assert proxied(f"/t2i{path}", headers=headers).status_code == 200


def test_a_page_of_the_proxys_host_may_send_jobs_and_another_may_not(proxied: Any) -> None:
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    for origin, status in (("https://pictures.example", 202), ("https://evil.example", 403)):
        headers = {"Authorization": "Bearer secret", "Origin": origin}
        answer = proxied("/t2i/api/v1/jobs", "POST", json=job, headers=headers)
        assert answer.status_code == status
