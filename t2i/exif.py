"""Exif blocks with text, as the standard defines them and other tools read them."""

import struct
from collections.abc import Mapping

EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
LONG, UNDEFINED = 4, 7


def build_exif_block(fields: Mapping[int, bytes]) -> bytes:
    """Return an Exif block with these fields, each of type UNDEFINED, in the Exif IFD.

    Written here because Pillow writes bytes as BYTE, which A1111, Forge and sd-prompt-reader, all
    through piexif, do not read as a comment.
    """
    below = 8 + 2 + 12 + 4  # header; count, one entry and "no next directory" of the first
    content = below + 2 + 12 * len(fields) + 4
    entries, values = b"", b""
    for tag, value in sorted(fields.items()):
        start = struct.pack(">I", content + len(values))
        if len(value) <= 4:
            start = value.ljust(4, b"\0")
        else:
            values += value + b"\0" * (len(value) % 2)  # a value begins at an even place
        entries += struct.pack(">HHI", tag, UNDEFINED, len(value)) + start
    none_after = bytes(4)
    return (
        b"Exif\0\0MM\0*"
        + struct.pack(">IHHHII", 8, 1, EXIF_IFD, LONG, 1, below)
        + none_after
        + struct.pack(">H", len(fields))
        + entries
        + none_after
        + values
    )
