"""Small picture files that carry texts, as other tools write them and as nobody should."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

START = b"\x89PNG\r\n\x1a\n"


def png(path: Path, texts: Mapping[str, str]) -> Path:
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    Image.new("RGB", (8, 8), (200, 60, 30)).save(path, pnginfo=info)
    return path


def with_exif(path: Path, fields: Mapping[int, bytes | str], *, below: bool = True) -> Path:
    """A JPEG or WebP with fields in its Exif directory, or in the first one."""
    exif = Image.Exif()
    place = exif.get_ifd(0x8769) if below else exif
    for tag, value in fields.items():
        place[tag] = value
    Image.new("RGB", (8, 8), (200, 60, 30)).save(path, exif=exif)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png_of(path: Path, *chunks: bytes, size: tuple[int, int] = (8, 8)) -> Path:
    """A PNG of these chunks, and no pixel in it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    path.write_bytes(START + head + b"".join(chunks) + chunk(b"IEND", b""))
    return path


def user_comment(text: str, encoding: str = "utf-16-be") -> bytes:
    return b"UNICODE\0" + text.encode(encoding)
