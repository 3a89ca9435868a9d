"""Exif blocks with text, as the standard defines them and other tools read them.

A block is a TIFF: a header, then directories (IFD) of entries of 12 bytes, whose longer values lie
elsewhere in the block, at offsets from its start.
"""

import struct
from collections.abc import Mapping

EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
ORIENTATION, PIXELS_ACROSS, PIXELS_DOWN = 0x0112, 0xA002, 0xA003
SHORT, LONG, UNDEFINED = 3, 4, 7
EXIF_PREFIX = b"Exif\0\0"
BYTE_ORDER_BY_TIFF_START = {b"II*\0": "<", b"MM\0*": ">"}
"""First bytes of a TIFF -> its byte order."""


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


def reset_exif_orientation_and_size(block: bytes, width: int, height: int) -> bytes:
    """Return the Exif block of a photo whose pixels were turned upright: with orientation 1, this
    size and no thumbnail.

    The thumbnail, which shows the photo as it was, is unlinked. Nothing is moved: offsets inside
    the maker's notes stay valid. Raises ValueError or struct.error for damaged blocks.
    """
    data = bytearray(block.removeprefix(EXIF_PREFIX))
    order, first = _read_header(data)
    main = _find_entries(data, order, first)
    found = dict(main)
    if EXIF_IFD in main:
        (place,) = struct.unpack_from(f"{order}I", data, main[EXIF_IFD] + 8)
        found |= _find_entries(data, order, place)
    if ORIENTATION in found:
        struct.pack_into(f"{order}HIH2x", data, found[ORIENTATION] + 2, SHORT, 1, 1)
    for tag, pixels in ((PIXELS_ACROSS, width), (PIXELS_DOWN, height)):
        if tag in found:
            struct.pack_into(f"{order}HII", data, found[tag] + 2, LONG, 1, pixels)
    struct.pack_into(f"{order}I", data, first + 2 + 12 * _count_entries(data, order, first), 0)
    return EXIF_PREFIX + bytes(data)


def add_exif_fields(block: bytes, fields: Mapping[int, bytes]) -> bytes:
    """Return an Exif block with these fields, each of type UNDEFINED, added to its Exif IFD.

    The directories are written anew at the end of the block, and no value of it is moved. Raises
    ValueError or struct.error for damaged blocks.
    """
    data = bytearray(block.removeprefix(EXIF_PREFIX))
    order, first = _read_header(data)
    main = _copy_entries(data, order, first)
    inner = {}
    if EXIF_IFD in main:
        inner = _copy_entries(data, order, struct.unpack_from(f"{order}I", main[EXIF_IFD], 8)[0])
    for tag, value in fields.items():
        start = value.ljust(4, b"\0")
        if len(value) > 4:
            start = struct.pack(f"{order}I", _append(data, value))
        inner[tag] = struct.pack(f"{order}HHI", tag, UNDEFINED, len(value)) + start
    place = _append(data, _join_entries(order, inner))
    main[EXIF_IFD] = struct.pack(f"{order}HHII", EXIF_IFD, LONG, 1, place)
    struct.pack_into(f"{order}I", data, 4, _append(data, _join_entries(order, main)))
    return EXIF_PREFIX + bytes(data)


def _read_header(data: bytearray) -> tuple[str, int]:
    """Return the byte order of a block, and the offset of its first directory."""
    order = BYTE_ORDER_BY_TIFF_START.get(bytes(data[:4]))
    if order is None:
        raise ValueError("neither byte order of Exif at its start")
    return order, struct.unpack_from(f"{order}I", data, 4)[0]


def _count_entries(data: bytearray, order: str, place: int) -> int:
    """Return the number of entries of a directory; ValueError if it ends beyond the block."""
    count: int = struct.unpack_from(f"{order}H", data, place)[0]
    if place + 2 + 12 * count + 4 > len(data):
        raise ValueError("a directory ends beyond the block: it is damaged or cut short")
    return count


def _find_entries(data: bytearray, order: str, place: int) -> dict[int, int]:
    """Return the offset of each entry of a directory, by tag."""
    places = range(place + 2, place + 2 + 12 * _count_entries(data, order, place), 12)
    return {struct.unpack_from(f"{order}H", data, entry)[0]: entry for entry in places}


def _copy_entries(data: bytearray, order: str, place: int) -> dict[int, bytes]:
    """Return the bytes of each entry of a directory, by tag."""
    found = _find_entries(data, order, place)
    return {tag: bytes(data[entry : entry + 12]) for tag, entry in found.items()}


def _join_entries(order: str, entries: Mapping[int, bytes]) -> bytes:
    """Return a directory of these entries, with none after it."""
    joined = b"".join(entries[tag] for tag in sorted(entries))
    return struct.pack(f"{order}H", len(entries)) + joined + bytes(4)


def _append(data: bytearray, value: bytes) -> int:
    """Append a value at an even offset, and return that."""
    data += b"\0" * (len(data) % 2)
    place = len(data)
    data += value
    return place
