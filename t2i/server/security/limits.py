"""Limits of a request's body: its bytes, counted as they come, and the time between its parts."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2i.server.security.errors import send_error


class BodyTooLargeError(Exception):
    """Error for a request body of more bytes than the server reads."""


class BodyTimeoutError(Exception):
    """Error for a request body whose next part did not come in time."""


class BodyLimitMiddleware:
    """ASGI middleware that refuses request bodies above a number of bytes, and those that come too
    slowly.

    max_bytes : of a body
    timeout : seconds in which its next part has to come
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self.app, self.max_bytes, self.timeout = app, max_bytes, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a limited body, or refuse it with 413 or 408."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await self._refuse_size(scope, receive, send)
            return
        count, complete, started = 0, False, False
        fault: BaseException | None = None

        async def receive_limited() -> Message:
            nonlocal count, complete, fault
            if complete:  # the end of the connection, which may be hours away
                return await receive()
            try:
                async with asyncio.timeout(self.timeout):
                    message = await receive()
            except TimeoutError:
                fault = BodyTimeoutError()
                raise fault from None
            if message["type"] == "http.request":
                count += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if count > self.max_bytes:
                    fault = BodyTooLargeError()
                    raise fault
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if fault is None or started:  # else what a route says of the fault is replaced
                started = True
                await send(message)

        with suppress(BodyTooLargeError, BodyTimeoutError):
            await self.app(scope, receive_limited, send_unless_refused)
        if started or fault is None:
            return
        if isinstance(fault, BodyTooLargeError):
            await self._refuse_size(scope, receive, send)
            return
        await send_error(
            scope,
            receive,
            send,
            408,
            "TimeoutError",
            f"The next part of the request did not come within {self.timeout:.0f} s.",
            {"connection": "close"},
        )

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_error(
            scope,
            receive,
            send,
            413,
            "BodyTooLargeError",
            f"A request has at most {self.max_bytes / 1e6:.0f} MB here: send a smaller picture.",
            {"connection": "close"},
        )
