"""Pictures as base64 texts, which bodies and answers of A1111's API carry."""

import base64
import binascii

from t2i.errors import ArgumentError, DataError


def decode_base64(name: str, text: str) -> bytes:
    """Return the bytes of a base64 text, with or without "data:image/png;base64," before it.

    name : of the field, for messages
    Raises ArgumentError for an address of the web, DataError for what is no base64.
    """
    if text.lstrip()[:8].lower().startswith(("http://", "https://")):
        raise ArgumentError(
            f"Got {name}={text!r:.80}: this server loads nothing from other addresses. Send the "
            "picture's bytes as base64."
        )
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not (comma and head.endswith(";base64")):
            raise DataError(
                f"Got {name} as {head!r:.80}: expected base64, as in data:image/png;base64,iVBOR..."
            )
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"Got {name}={text!r:.40}, which is no base64 ({error}): expected a picture's bytes as "
            "base64."
        ) from None
    if not data:
        raise DataError(f"Got an empty {name}: expected a picture's bytes as base64.")
    return data


def encode_base64(data: bytes) -> str:
    """Return bytes as a base64 text."""
    return base64.b64encode(data).decode("ascii")
