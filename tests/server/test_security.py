"""Who may speak to the server, from where, and how much: refused before anything is done."""

import asyncio
import base64
import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from t2i.cli import main
from t2i.errors import ArgumentError
from t2i.server.command import serve
from tests.server.conftest import Idle
from tests.server.servers import run_async

ONE, OTHER = "first-secret", "second-secret"
PATHS = ("/", "/docs", "/openapi.json", "/api/v1/jobs", "/api/v1/models", "/nothing")
JOB = {"kind": "generate", "request": {"prompt": "a cat"}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{token}".encode()).decode()}


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_every_path_answers_401(idle: Idle, path: str) -> None:
    answer = idle(tokens=(ONE,)).get(path)
    assert answer.status_code == 401
    assert "needs a token" in answer.json()["error"]["message"]
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_health_needs_no_token_and_tells_nothing(idle: Idle) -> None:
    answer = idle(tokens=(ONE,)).get("/api/v1/health")
    assert answer.json() == {"status": "ok", "ready": False, "problem": None}


@pytest.mark.parametrize("headers", [bearer(ONE), basic(ONE)], ids=["bearer", "basic"])
def test_a_token_opens_as_bearer_and_as_password(idle: Idle, headers: dict[str, str]) -> None:
    assert idle(tokens=(ONE, OTHER)).get("/api/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        bearer(ONE[:-1]),
        bearer(f"{ONE} "[1:]),
        bearer(""),
        basic("x"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + "A" * 5},
        {"Authorization": ONE},
        {"Cookie": f"t2i_token={ONE}"},
    ],
)
def test_what_is_no_token_does_not_open(idle: Idle, headers: dict[str, str]) -> None:
    assert idle(tokens=(ONE,)).get("/api/v1/jobs", headers=headers).status_code == 401


def test_a_link_sets_a_cookie_once_which_no_script_reads(idle: Idle) -> None:
    client = idle(tokens=(ONE,))
    answer = client.get(f"/?token={ONE}", follow_redirects=False)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/">' in answer.text
    assert ONE not in answer.text
    assert "Secure" not in answer.headers["set-cookie"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ONE not in cookie
    assert client.get("/api/v1/jobs").status_code == 200
    assert TestClient(client.app, base_url="http://127.0.0.1").get("/?token=x").status_code == 401


@pytest.mark.parametrize(
    ("peer", "trusted", "proto", "secure"),
    [
        ("127.0.0.1", (), "https", False),
        ("127.0.0.1", ("127.0.0.1",), "https", True),
        ("127.0.0.1", ("127.0.0.1",), "http", False),
        ("127.0.0.1", ("127.0.0.1",), "gopher", False),
        ("10.1.2.3", ("127.0.0.1",), "https", False),
        ("10.1.2.3", ("127.0.0.1", "10.1.0.0/16"), "https", True),
    ],
)
def test_only_trusted_proxies_say_that_the_client_came_by_https(
    idle: Idle, peer: str, trusted: tuple[str, ...], proto: str, secure: bool
) -> None:
    app = idle(tokens=(ONE,), trusted_proxies=trusted).app
    client = TestClient(app, base_url="http://127.0.0.1", client=(peer, 50_000))
    answer = client.get(f"/?token={ONE}", headers={"X-Forwarded-Proto": proto})
    assert ("; Secure" in answer.headers["set-cookie"]) is secure


def test_the_proxies_that_are_trusted_are_addresses() -> None:
    with pytest.raises(ArgumentError, match="Got --trusted-proxy 'nginx': expected an IP address"):
        serve(trusted_proxy=["nginx"])


def test_one_token_sees_nothing_of_anothers(idle: Idle, repo: Path) -> None:
    client = idle(tokens=(ONE, OTHER))
    job = client.post("/api/v1/jobs", json=JOB, headers=bearer(ONE)).json()
    assert job["state"] == "queued"
    picture = (repo / "docs/images/car.webp").read_bytes()
    upload = client.post(
        "/api/v1/uploads", files={"file": ("car.webp", picture)}, headers=bearer(ONE)
    ).json()
    for method, path in (
        ("GET", f"/api/v1/jobs/{job['id']}"),
        ("DELETE", f"/api/v1/jobs/{job['id']}"),
        ("GET", f"/api/v1/jobs/{job['id']}/events"),
        ("GET", f"/api/v1/jobs/{job['id']}/maps"),
        ("GET", f"/api/v1/jobs/{job['id']}/files/seed-1.png"),
    ):
        assert client.request(method, path, headers=bearer(OTHER)).status_code == 404
    assert client.get("/api/v1/jobs", headers=bearer(OTHER)).json() == {"jobs": []}
    request = {"prompt": "a car", "image": upload["id"]}
    answer = client.post(
        "/api/v1/jobs", json={"kind": "generate", "request": request}, headers=bearer(OTHER)
    )
    assert answer.status_code == 404
    assert "No upload" in answer.json()["error"]["message"]
    assert client.get(f"/api/v1/jobs/{job['id']}", headers=bearer(ONE)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_another_host_is_refused(idle: Idle, host: str) -> None:
    answer = idle().get("/api/v1/health", headers={"Host": host})
    assert answer.status_code == 403
    assert "--allowed-host" in answer.json()["error"]["message"]


def test_a_server_at_every_address_is_called_by_any_address_and_no_name(idle: Idle) -> None:
    client = idle(host="0.0.0.0", tokens=("a-long-token",), headers=bearer("a-long-token"))
    for host, status in (("192.168.1.5:7878", 200), ("[fe80::1]:7878", 200), ("evil.example", 403)):
        assert client.get("/api/v1/health", headers={"Host": host}).status_code == status


def test_a_host_that_is_named_is_answered(idle: Idle) -> None:
    client = idle(allowed_hosts=("pictures.example",))
    headers = {"Host": "pictures.example", "Origin": "https://pictures.example"}
    assert client.get("/api/v1/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9", "http://localhost:7879", "x"]
)
def test_a_page_of_another_site_is_refused(idle: Idle, origin: str) -> None:
    answer = idle().post("/api/v1/jobs", json=JOB, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "--allowed-origin" in answer.json()["error"]["message"]


def test_the_own_page_and_a_named_origin_may_call(idle: Idle) -> None:
    own = {"Origin": "http://127.0.0.1:7878"}
    client = idle(allowed_origins=("https://tool.example",))
    assert client.post("/api/v1/jobs", json=JOB, headers=own).status_code == 202
    named = client.get("/api/v1/jobs", headers={"Origin": "https://tool.example"})
    assert named.headers["access-control-allow-origin"] == "https://tool.example"
    assert "access-control-allow-origin" not in client.get("/api/v1/jobs", headers=own).headers


def test_every_answer_forbids_scripts_from_elsewhere(idle: Idle) -> None:
    client = idle(tokens=(ONE,))
    for headers in ({}, bearer(ONE)):
        answer = client.get("/docs", headers=headers)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_the_documentation_has_no_script_and_nothing_from_the_network(idle: Idle) -> None:
    page = idle().get("/docs").text
    assert "/api/v1/jobs" in page
    assert "<script" not in page
    assert "http" not in page.replace("http_", "")


@pytest.mark.parametrize("path", ["/../settings.py", "/%2e%2e/settings.py", "/page/", "/app.py"])
def test_nothing_but_the_pages_files_is_served(idle: Idle, path: str) -> None:
    assert idle().get(path).status_code == 404


def test_a_body_that_is_too_large_is_refused_by_its_length_and_while_it_comes(idle: Idle) -> None:
    client = idle(max_body_bytes=10_000)
    answer = client.post("/api/v1/jobs", content=b"x" * 10_001)
    assert answer.status_code == 413
    assert "send a smaller picture" in answer.json()["error"]["message"]
    seen = 0

    def parts():
        nonlocal seen
        for _ in range(1000):
            seen += 1
            yield b"x" * 1000

    answer = client.post("/api/v1/jobs", content=parts())
    assert answer.status_code == 413
    assert "send a smaller picture" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come_is_given_up(idle: Idle) -> None:
    app = idle(body_timeout=0.05).app
    sent = []

    async def receive() -> dict[str, object]:
        await asyncio.sleep(5)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/jobs", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {}}
    run_async(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"did not come within" in sent[1]["body"]


def huge_png(side: int) -> bytes:
    """A PNG that says it has side x side pixels, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


GIF = b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(20)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (huge_png(12_000), "at most 64 million are decoded"),
        (SVG, "an SVG"),
        (GIF, "a GIF"),
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a fresh copy|no picture"),
        (b"<html>" * 10, "no picture we know"),
    ],
    ids=["144 megapixels", "SVG", "GIF", "empty", "damaged", "HTML"],
)
@pytest.mark.parametrize("name", ["a.png", "../../etc/passwd", "", "x" * 500, "\0\n<b>"])
def test_a_picture_that_is_none_is_refused_and_nothing_stays(
    idle: Idle, data: bytes, reason: str, name: str
) -> None:
    client = idle()
    answer = client.post("/api/v1/uploads", files={"file": (name or "-", data)})
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert any(part in message for part in reason.split("|")), message
    folder = client.app.state.service.uploads.folder
    assert str(folder) not in message
    assert list(folder.iterdir()) == []


def test_a_polyglot_is_never_sent_back_as_a_page(idle: Idle) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    client = idle()
    data = stream.getvalue() + b"<script>alert(1)</script>"
    upload = client.post("/api/v1/uploads", files={"file": ("a.html", data)}).json()
    assert upload["width"] == 8
    (kept,) = client.app.state.service.uploads.folder.iterdir()
    assert kept.suffix == ".png"
    assert hashlib.sha256(kept.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert client.get(f"/api/v1/uploads/{upload['id']}").status_code in (404, 405)


@pytest.mark.parametrize("model", ["../../etc", "/etc/passwd", "nobody/nothing", "served", ""])
def test_a_model_is_named_from_the_list_and_never_a_path(idle: Idle, model: str) -> None:
    request = {"prompt": "a cat", "model": model}
    answer = idle().post("/api/v1/jobs", json={"kind": "generate", "request": request})
    assert answer.status_code == 422
    assert "Unknown model" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": "a cat", "loras": [{"name": "../../secret"}]},
        {"prompt": "a <lora:../../secret:1> cat"},
        {"prompt": "a <lora:late:1> cat"},
        {"prompt": "a cat", "embeddings": [{"name": "/etc/passwd"}]},
    ],
)
def test_a_lora_is_named_from_the_list_and_never_a_path(
    idle: Idle, request_: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    client = idle(lora_folder=folder)
    (folder / "late.safetensors").write_bytes(b"")
    answer = client.post("/api/v1/jobs", json={"kind": "generate", "request": request_})
    assert answer.status_code == 422
    assert "passwd" not in str(list(folder.iterdir()))


def test_a_file_in_the_prompt_is_not_looked_for(idle: Idle) -> None:
    client = idle()
    request = {"prompt": "/etc/passwd"}
    answer = client.post("/api/v1/jobs", json={"kind": "generate", "request": request})
    assert answer.status_code == 202


def test_other_hosts_need_a_token() -> None:
    with pytest.raises(ArgumentError, match=r"Got --host .* without --token"):
        serve(host="0.0.0.0")
    with pytest.raises(ArgumentError, match="Got --allowed-host without --token"):
        serve(allowed_host=["pictures.example"])
    with pytest.raises(ArgumentError, match="Got a --token of 3 characters: expected at least 8"):
        serve(token=["abc"])


def test_a_secret_on_the_command_line_is_remarked_and_one_of_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("t2i.server.running.run_server", lambda *_settings, **_options: None)
    monkeypatch.setenv("T2I_TOKEN", "opensesame")
    assert main(["serve"]) == 0
    assert "list of processes" not in capsys.readouterr().err
    assert main(["serve", "--token", "opensaysme"]) == 0
    assert "T2I_TOKEN is not" in " ".join(capsys.readouterr().err.split())
