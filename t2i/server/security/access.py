"""Access by token: as Bearer, as the password of Basic, or in a cookie that a link has set."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from html import escape
from urllib.parse import parse_qs

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from t2i.server.security.errors import send_error

COOKIE_NAME = "t2i_token"
PATHS_WITHOUT_TOKEN = ("/api/v1/health",)
"""Paths that need no token: they say nothing but that the server is there."""
OWNER_SCOPE_KEY = "t2i.owner"
COOKIE_AGE_SECONDS = 90 * 86_400
"""Seconds."""
ENTRANCE = """<!doctype html>
<meta charset="utf-8"><title>t2i</title>
<meta http-equiv="refresh" content="0; url={address}">
<a href="{address}">t2i</a>
"""
"""Answer that sets the cookie: it leads to the page."""


def get_owner(request: Request) -> str:
    """Return the owner of a request's jobs: the digest of its token, "" without one."""
    owner: str = request.scope[OWNER_SCOPE_KEY]
    return owner


class AccessMiddleware:
    """ASGI middleware that answers 401 to requests without a valid access token, if the server has
    any tokens; a few paths need none.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path
        self.owners = {token: compute_owner_id(token) for token in tokens}
        self.cookies = {compute_cookie_value(token): owner for token, owner in self.owners.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the owner of a request and pass it on; or refuse it, or set the cookie."""
        if scope["type"] != "http" or not self.owners:
            scope[OWNER_SCOPE_KEY] = ""
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(self.root_path)
        token = self._token_of_link(scope, path)
        if token is not None:
            await self._set_cookie(scope, send, token)
            return
        owner = self._find_owner(Headers(scope=scope))
        if owner is None and path not in PATHS_WITHOUT_TOKEN:
            await send_error(
                scope,
                receive,
                send,
                401,
                "AccessError",
                "This server needs a token: send it as Authorization: Bearer TOKEN, or open the "
                "link that it printed when it was started.",
                {"www-authenticate": 'Basic realm="t2i"'},
            )
            return
        scope[OWNER_SCOPE_KEY] = owner or ""
        await self.app(scope, receive, send)

    def _find_owner(self, headers: Headers) -> str | None:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return look_up_by_secret(value.strip(), self.owners)
        if kind.lower() == "basic":
            return look_up_by_secret(_password(value), self.owners)
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE_NAME)
        return None if cookie is None else look_up_by_secret(cookie, self.cookies)

    def _token_of_link(self, scope: Scope, path: str) -> str | None:
        """Return the valid token in the address of the page, or None."""
        if scope["method"] != "GET" or path not in ("", "/"):
            return None
        values = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        known = [value for value in values if look_up_by_secret(value, self.owners) is not None]
        return known[0] if known else None

    async def _set_cookie(self, scope: Scope, send: Send, token: str) -> None:
        place = f"{self.root_path}/"
        cookie = (
            f"{COOKIE_NAME}={compute_cookie_value(token)}; Path={place}; "
            f"Max-Age={COOKIE_AGE_SECONDS}; HttpOnly; SameSite=Strict"
        )
        if scope.get("scheme") == "https":
            cookie += "; Secure"
        # Not a redirect: a browser that follows one from a link in another program or file counts
        # it as a request from another site, and keeps the strict cookie back.
        body = ENTRANCE.format(address=escape(place)).encode()
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"set-cookie", cookie.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def compute_owner_id(token: str) -> str:
    """Return the identifier of the owner of an access token, a digest of the token, under which its
    jobs are stored.
    """
    return hashlib.sha256(b"t2i owner " + token.encode()).hexdigest()[:32]


def compute_cookie_value(token: str) -> str:
    """Return the value of the cookie that stands for an access token, a digest of the token."""
    return hashlib.sha256(b"t2i cookie " + token.encode()).hexdigest()


def look_up_by_secret(given: str, known: dict[str, str]) -> str | None:
    """Return the value that a dict stores for a secret such as an access token, or None; every key
    is compared, in constant time.
    """
    found = None
    for secret, value in known.items():
        if hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode()):
            found = value
    return found


def _password(value: str) -> str:
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2]
