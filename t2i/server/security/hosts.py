"""Checks of the Host and Origin headers: against DNS rebinding and posts from other sites."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from t2i.server.security.errors import send_error
from t2i.server.settings import LOOPBACK_HOSTS, ServerSettings

WILDCARD_HOSTS = ("0.0.0.0", "::")
"""Hosts that listen at every address of the machine."""


class HostAndOriginMiddleware:
    """ASGI middleware that refuses requests for other host names than the server's, and requests
    from pages of other sites.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self.names = list_allowed_host_names(settings)
        # Which address of this machine is meant, it cannot know; DNS rebinding needs a name.
        self.any_address = settings.host in WILDCARD_HOSTS
        self.origins = set(settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] == "http" and (reason := self._find_fault(Headers(scope=scope))):
            await send_error(scope, receive, send, 403, "HostError", reason)
            return
        await self.app(scope, receive, send)

    def _find_fault(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        name = parse_host_name(host)
        if name not in self.names and not (self.any_address and is_ip_address(name)):
            known = ", ".join(sorted(self.names))
            return (
                f"Got the host {host!r:.100}: this server answers to {known}. Name another one "
                "with --allowed-host when it is started."
            )
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return None
        place = urlsplit(origin) if origin != "null" else None
        same = place is not None and (
            place.netloc.lower() == host.lower()
            or (place.hostname in self.names and place.hostname not in LOOPBACK_HOSTS)
        )
        if same:
            return None
        return (
            f"Got a request from a page of {origin!r:.100}: pages of other sites are refused. Name "
            "it with --allowed-origin when the server is started."
        )


def is_ip_address(name: str) -> bool:
    """Return True if a host is given by its IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def list_allowed_host_names(settings: ServerSettings) -> set[str]:
    """Return the host names that requests to a server may have in their Host header."""
    names = (*LOOPBACK_HOSTS, settings.host, *settings.allowed_hosts)
    return {name.strip("[]").lower() for name in names}


def parse_host_name(host: str) -> str:
    """Return the name in a Host header without its port; "" for none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
