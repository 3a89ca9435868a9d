"""Text of JSON bodies: half a surrogate pair, which no encoding has, is refused before routes."""

import json
import re
from collections.abc import Iterator

from starlette.requests import Request

from t2i.errors import ArgumentError

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


async def check_body_encodable_as_utf8(request: Request) -> None:
    """Raise ArgumentError for a JSON request body with a string that cannot be encoded in UTF-8.

    JSON may escape half of a surrogate pair; an answer that repeats it could not be sent.
    """
    form = request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-"))
    if form or request.method not in ("POST", "PUT", "PATCH"):
        return
    body = await request.body()
    if not _SURROGATE_ESCAPE.search(body):
        return
    try:
        document = json.loads(body)
    except ValueError:
        return  # The route says what is wrong with it.
    for name, text in _iterate_texts(document):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"{name} is not valid UTF-8 at character {error.start}: {text!r:.80}. "
                "Send both halves of a surrogate pair, or the letter itself."
            ) from error


def _iterate_texts(document: object) -> Iterator[tuple[str, str]]:
    """Yield each text of a document with its name, keys among them; without recursion."""
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            yield name or "the body", value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield "a name of a field", key
                waiting.append((f"{name}.{key}" if name else key, inner))
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]
