"""Parser of the few Exif fields that hold metadata, with bounds on every offset."""

import struct

from t2i.exif import EXIF_IFD, MAKER_NOTE, USER_COMMENT
from t2i.pictures import MAX_TEXT_BYTES

MAKE, MODEL = 0x010F, 0x0110
READ_TAGS = {MAKE, MODEL, USER_COMMENT, MAKER_NOTE}
BYTES, ASCII, UNDEFINED = 1, 2, 7


def parse_raw_exif_tags(data: bytes) -> dict[int, bytes]:
    """Parse Exif data into tag -> bytes, of the few tags that hold generation metadata.

    The Exif directory takes precedence over the first. Raises ValueError or struct.error for
    damaged data.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("neither byte order of Exif at its start")
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    fields, below = _parse_directory(data, first, order)
    if below is not None:
        fields |= _parse_directory(data, below, order)[0]
    return fields


def _parse_directory(data: bytes, start: int, order: str) -> tuple[dict[int, bytes], int | None]:
    """Return the known fields of one directory, and the offset of its Exif directory."""
    fields: dict[int, bytes] = {}
    below = None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, size, place = struct.unpack_from(f"{order}HHII", data, entry)
        if tag == EXIF_IFD:
            below = place
        elif tag in READ_TAGS and kind in (BYTES, ASCII, UNDEFINED):
            if size > MAX_TEXT_BYTES:
                raise ValueError(
                    f"field {tag} of {size:,} bytes, at most {MAX_TEXT_BYTES:,} are read"
                )
            if size <= 4:
                place = entry + 8
            if place + size > len(data):
                raise ValueError(f"field {tag} ends beyond the file: it is damaged or cut short")
            fields[tag] = data[place : place + size]
    return fields, below


def decode_user_comment(comment: bytes) -> str:
    """Decode an Exif UserComment, whose first eight bytes usually name the encoding."""
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        return _decode_utf16(text)
    if code in (b"ASCII\0\0\0", bytes(8)):
        return text.rstrip(b"\0").decode("utf-8")
    return comment.rstrip(b"\0").decode("utf-8")


def _decode_utf16(data: bytes) -> str:
    """Decode big-endian UTF-16, as A1111 writes it, or little-endian where that alone fits."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    mark = "Steps:"
    is_big = mark in data.decode("utf-16-be", "replace")
    is_little = not is_big and mark in data.decode("utf-16-le", "replace")
    return data.decode("utf-16-le" if is_little else "utf-16-be")
