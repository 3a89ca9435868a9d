"""Clients that break off, talk nonsense or read nothing, and jobs that turn out impossible: each is
answered, or dropped, and the server goes on.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from t2i.server.running import open_listening_socket
from tests.server.servers import RunningServer, run_async

PROMPT = "a red apple to the left of a cat"
JOBS, UPLOADS, TXT2IMG = "/api/v1/jobs", "/api/v1/uploads", "/sdapi/v1/txt2img"
JSON = "Content-Type: application/json"
FORM = "Content-Type: multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n\x89PNG'


@pytest.fixture(autouse=True)
def nothing_changes(server: RunningServer) -> Iterator[None]:
    """The server is there, has no further file among its uploads, and no fault in its log."""
    uploads, lines = set((server.folder / "uploads").iterdir()), len(server.log)
    yield
    assert server.get("/api/v1/health").json()["ready"]
    assert set((server.folder / "uploads").iterdir()) == uploads
    assert "Traceback" not in "".join(server.log[lines:])


def connect(server: RunningServer, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    address = urlsplit(server.url)
    connection.connect((address.hostname, address.port))
    return connection


def build_head(server: RunningServer, line: str, *headers: str) -> bytes:
    host = f"Host: {urlsplit(server.url).netloc}"
    return "\r\n".join([f"{line} HTTP/1.1", host, *headers, "", ""]).encode()


def receive(connection: socket.socket) -> bytes:
    """Receive until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


@pytest.mark.parametrize(
    ("path", "headers", "start"),
    [
        (JOBS, (JSON, "Content-Length: 1000"), b'{"kind": "gen'),
        (JOBS, (JSON, "Content-Length: 1000"), b""),
        (UPLOADS, (FORM, "Content-Length: 100000"), PART),
        (TXT2IMG, (JSON, "Transfer-Encoding: chunked"), b'5\r\n{"pro\r\n'),
        ("/v1/images/edits", (FORM, "Transfer-Encoding: chunked"), b"3\r\n--x\r\n"),
    ],
)
def test_a_body_that_is_cut_off_leaves_nothing(
    server: RunningServer, path: str, headers: tuple[str, ...], start: bytes
) -> None:
    count = len(server.get(JOBS, params={"limit": 500}).json()["jobs"])
    with connect(server) as connection:
        connection.sendall(build_head(server, f"POST {path}", *headers) + start)
        connection.shutdown(socket.SHUT_WR)
        answer = receive(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert len(server.get(JOBS, params={"limit": 500}).json()["jobs"]) == count


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00" * 10,  # TLS
        b"GET / HTTP/9.9\r\nfoo\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "other HTTP", "negative length", "long header"],
)
def test_what_is_no_request_is_dropped(server: RunningServer, data: bytes) -> None:
    with connect(server) as connection:
        with suppress(OSError):  # also that it is not connected any more
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = receive(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("body", [b"{", b'{"kind": "generate"', b"\xff", b"nonsense"])
def test_what_is_no_json_is_told_as_json(server: RunningServer, body: bytes) -> None:
    answer = server.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "body" in answer.json()["error"]["message"]


def test_a_client_that_reads_nothing_holds_up_nobody(server: RunningServer) -> None:
    first = server.run("generate", prompt=PROMPT, steps=2, seed=1, words_maps=True)
    exact = server.file(first, "maps.safetensors")
    job = server.submit("generate", prompt=PROMPT, steps=20, seed=2)
    with connect(server, buffer=1024) as deaf, connect(server, buffer=1024) as listener:
        # more than all buffers between both sides take
        request = build_head(server, f"GET {JOBS}/{first['id']}/files/maps.safetensors")
        deaf.sendall(request * (1 + (8 << 20) // len(exact)))
        listener.sendall(build_head(server, f"GET {JOBS}/{job['id']}/events", "Connection: close"))
        started = time.monotonic()
        assert server.get("/api/v1/health").status_code == 200
        assert time.monotonic() - started < 30
        assert server.wait(job["id"])["state"] == "done"
        heard = receive(listener)  # it begins to read after the job has ended
    data = [json.loads(line[6:]) for line in heard.splitlines() if line.startswith(b"data: ")]
    assert data[-1]["state"] == "done"


IMPOSSIBLE = [
    (
        "remember",
        {"prompt": "a cat", "width": 130, "height": 130},
        "Got height=130, but this model needs a multiple of 8: the nearest are 128 and 136.",
    ),
    (
        "edit",
        {"source_prompt": "a cat", "weights": {"dog": 2.0}},
        "weights: 'dog' is not in any target. Its words: a, cat.",
    ),
    (
        "edit",
        {"source_prompt": "a cat", "targets": ["a dog"], "blend": "apple"},
        "'apple' is not in the prompt. Its words: a, cat.",
    ),
    (
        "inspect",
        {"prompt": "a cat", "words": ["dog"]},
        "'dog' is not in the prompt. Its words: a, cat.",
    ),
]


@pytest.mark.parametrize(("kind", "request_", "message"), IMPOSSIBLE)
def test_a_job_that_turns_out_impossible_fails_and_is_no_source(
    server: RunningServer, kind: str, request_: dict[str, object], message: str
) -> None:
    job = server.wait(server.submit(kind, steps=1, **request_)["id"])
    assert job["state"] == "failed"
    assert job["error"] == {"type": "ArgumentError", "message": message}
    edit = {"kind": "edit", "request": {"source": job["id"], "targets": ["a dog"]}}
    answer = server.post(JOBS, json=edit)
    assert answer.status_code == 422
    told = answer.json()["error"]["message"]
    if kind == "remember":
        assert told == (
            f"The job {job['id']} is failed ({message.rstrip('.')}): a source can be used once it "
            "is done."
        )
    else:
        assert "records no source" in told
    assert server.delete(f"{JOBS}/{job['id']}").json()["state"] == "failed"
    assert server.get(f"{JOBS}/{job['id']}/files/seed-1.png").status_code == 404
    assert server.get(f"{JOBS}/{job['id']}/maps").status_code == 404


def test_a_picture_that_is_none_is_refused_by_its_name(server: RunningServer) -> None:
    answer = server.post(UPLOADS, files={"file": ("my notes.png", b"no picture at all")})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("my notes.png is no picture we know")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_small_answers_are_sent_at_once(host: str) -> None:
    """A socket with Nagle's algorithm keeps a body back until its head is acknowledged: 40 ms."""
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    no_delay = []

    async def connect() -> None:
        listener = open_listening_socket(host, 0)
        answered = asyncio.Event()

        async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            no_delay.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            answered.set()

        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
            await asyncio.wait_for(answered.wait(), 10)
            writer.close()

    run_async(connect())
    assert no_delay == [1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True
