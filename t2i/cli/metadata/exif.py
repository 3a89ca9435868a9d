"""The few Exif fields that tools keep a story in, read from the bytes with bounds on every jump."""

import struct

from t2i.exif import EXIF_IFD, MAKER_NOTE, USER_COMMENT
from t2i.pictures import MAX_TEXT

MAKE, MODEL = 0x010F, 0x0110
WANTED = {MAKE, MODEL, USER_COMMENT, MAKER_NOTE}
BYTES, ASCII, UNDEFINED = 1, 2, 7


def parse_exif(data: bytes) -> dict[int, bytes]:
    """Tag -> bytes, of the first directory and of its Exif directory, which counts more."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("neither byte order of Exif at its start")
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    fields, below = _parse_directory(data, first, order)
    if below is not None:
        fields |= _parse_directory(data, below, order)[0]
    return fields


def _parse_directory(data: bytes, start: int, order: str) -> tuple[dict[int, bytes], int | None]:
    """The fields wanted of one directory, and where its Exif directory begins."""
    fields: dict[int, bytes] = {}
    below = None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, size, place = struct.unpack_from(f"{order}HHII", data, entry)
        if tag == EXIF_IFD:
            below = place
        elif tag in WANTED and kind in (BYTES, ASCII, UNDEFINED):
            if size > MAX_TEXT:
                raise ValueError(f"field {tag} of {size:,} bytes, at most {MAX_TEXT:,} are read")
            if size <= 4:
                place = entry + 8
            if place + size > len(data):
                raise ValueError(f"field {tag} ends beyond the file: it is damaged or cut short")
            fields[tag] = data[place : place + size]
    return fields, below


def decode_comment(comment: bytes) -> str:
    """A UserComment: eight bytes name the encoding; some tools leave them out."""
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        return _decode_utf16(text)
    if code in (b"ASCII\0\0\0", bytes(8)):
        return text.rstrip(b"\0").decode("utf-8")
    return comment.rstrip(b"\0").decode("utf-8")


def _decode_utf16(data: bytes) -> str:
    """Big-endian, as A1111 writes it; little-endian only where that alone makes sense."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    mark = "Steps:"
    if mark not in data.decode("utf-16-be", "replace"):
        if mark in data.decode("utf-16-le", "replace"):
            return data.decode("utf-16-le")
    return data.decode("utf-16-be")
