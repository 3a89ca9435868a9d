"""Running a server until a signal: the first lets the running pictures finish, the second ends."""

import errno
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from types import FrameType
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from t2i.cli.output import print_remark
from t2i.errors import OutputError
from t2i.server.app import create_app
from t2i.server.settings import SWITCH_SECONDS, ServerSettings
from t2i.terminal import print_result_line

MAX_PENDING_CONNECTIONS = 4096
"""Connections that wait to be accepted."""
SHUTDOWN_GRACE_SECONDS = 5
"""Seconds that open connections have once the server ends."""
OPEN_DELAY = 1.0
"""Seconds until the page is opened, so that the server can answer."""
REDIRECT_FILE = "open-page.html"
REDIRECT_SECONDS = 60.0
"""Seconds that a browser has to read the file with the address of the page."""
REDIRECT = """<!doctype html>
<meta charset="utf-8"><title>t2i</title>
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<a href="{address}">t2i</a>
"""


class DrainingServer(uvicorn.Server):
    """Uvicorn server that finishes the running jobs at the first stop signal, and ends at the
    second.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.state, self.pool = app.state.server, app.state.pool
        self._draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain the server at the first stop signal; end it at once at the second.

        In threads of their own: a signal may come while this thread holds a lock that they take.
        """
        react = self._end_at_once if self._draining else self._drain
        self._draining = True
        threading.Thread(target=react, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self.state.begin_draining()
        if not self.pool.wait_until_idle(timeout=0):
            print_remark(
                "Finishing what is running; what waits stays queued. Ctrl-C again stops at once."
            )
            self.pool.wait_until_idle()
        self._end()

    def _end_at_once(self) -> None:
        print_remark("Stopping now; what was running is drawn at the next start.")
        self._end()

    def _end(self) -> None:
        self.state.events.close()
        self.should_exit = True


def run_server(settings: ServerSettings, *, open_page: bool = False) -> None:
    """Run the web server until a stop signal. Raises OutputError for an address that is in use."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listener = open_listening_socket(settings.host, settings.port)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        access_log=False,  # addresses hold tokens, and queries may hold prompts
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        backlog=MAX_PENDING_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        lifespan="on",
    )
    server = DrainingServer(config, app)
    address = build_page_address_with_token(settings, listener)
    print_result_line(address)
    with opening_page(address, settings) if open_page else nullcontext():
        server.run(sockets=[listener])


@contextmanager
def opening_page(address: str, settings: ServerSettings) -> Iterator[None]:
    """Open the server's page in a browser soon after the block has begun.

    Every user of the machine may read the command of a browser. If the address has a token, it is
    therefore written into a file that only this user may read, and the browser is given the file,
    which leads to the page; the file is removed after REDIRECT_SECONDS or at the end of the block.
    """
    path = settings.folder.resolve() / REDIRECT_FILE if settings.tokens else None
    if path is not None:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(REDIRECT.format(address=escape(address)))
    ended = threading.Event()

    def open_and_remove() -> None:
        if not ended.wait(OPEN_DELAY):
            webbrowser.open(address if path is None else path.as_uri())
            ended.wait(REDIRECT_SECONDS)
        if path is not None:
            path.unlink(missing_ok=True)

    thread = threading.Thread(target=open_and_remove, name="open", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=SHUTDOWN_GRACE_SECONDS)


def open_listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes a free one. Raises OutputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, as asyncio switches Nagle's algorithm off only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(MAX_PENDING_CONNECTIONS)  # who is told the address can connect
    except OSError as error:
        listener.close()
        advice = "Choose another port with --port, or stop the program that has it."
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            advice = "Give an address of this machine with --host."
        raise OutputError(
            f"Cannot listen at {host}:{port}: {error.strerror or error}. {advice}"
        ) from error
    listener.set_inheritable(False)
    return listener


def build_page_address_with_token(settings: ServerSettings, listener: socket.socket) -> str:
    """Return the address of the server's page; if the server has access tokens, with the first one
    in it.
    """
    port = listener.getsockname()[1]
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}{settings.root_path}/"
    return f"{address}?token={quote(settings.tokens[0], safe='')}" if settings.tokens else address
