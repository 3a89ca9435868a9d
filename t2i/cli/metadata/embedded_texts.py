"""Texts within an image file, found without decoding the image. Nothing in it is trusted."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from t2i.cli.metadata.exif import MAKE, MODEL, decode_user_comment, parse_raw_exif_tags
from t2i.errors import DataError
from t2i.exif import MAKER_NOTE, USER_COMMENT
from t2i.pictures import MAX_TEXT_BYTES, describe_file_type
from t2i.safe_reading import PICTURE_KIND, open_untrusted_file

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEYS = (
    "t2i",
    "parameters",
    "fooocus_scheme",
    "prompt",
    "workflow",
    "invokeai_metadata",
    "sd-metadata",
    "Dream",
)
"""Keys of text chunks that are read; others are skipped."""
MAX_EXIF_BYTES = 4 * MAX_TEXT_BYTES
MAX_BLOCKS = 100_000
"""Maximum number of chunks or segments that are examined; the largest real PNG has fewer."""
TOO_MANY_BLOCKS = f"more than {MAX_BLOCKS:,} blocks; the rest is not read"


@dataclass
class EmbeddedTexts:
    """Metadata texts found in an image file, by the key that their tool gave them.

    texts : key, such as "parameters" -> text
    errors : a line for each text that could not be read
    seen_keys : those of both
    """

    texts: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    seen_keys: set[str] = field(default_factory=set)

    def add_text_or_error(self, key: str, read: Callable[[], str]) -> None:
        """Read one metadata text of an image file by calling `read`, and add it under its key;
        where reading fails, add a line to the errors instead.

        read : returns the text; may raise ValueError or zlib.error
        Only the first text of a key counts.
        """
        if key in self.seen_keys:
            return
        self.seen_keys.add(key)
        try:
            self.texts[key] = read()
        except (ValueError, zlib.error) as error:
            self.errors.append(f"{key}: {error}")


def read_embedded_texts(path: Path) -> EmbeddedTexts:
    """Read the metadata texts in a PNG, JPEG or WebP file, whatever its name ends in.

    Raises DataError for any other file.
    """
    try:
        with open_untrusted_file(path, PICTURE_KIND) as file:
            start = file.read(12)
            if start.startswith(PNG_SIGNATURE):
                return _read_png_texts(file)
            if start.startswith(b"\xff\xd8\xff"):
                return _read_exif_texts(file, _find_jpeg_exif)
            if start[:4] == b"RIFF" and start[8:] == b"WEBP":
                return _read_exif_texts(file, _find_webp_exif)
    except ValueError as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    raise DataError(
        f"{path} is {describe_file_type(path)}; expected a PNG, JPEG or WebP picture. "
        "A picture loses its metadata when it is converted: look for the original file."
    )


def _read_png_texts(file: BinaryIO) -> EmbeddedTexts:
    texts = EmbeddedTexts()
    file.seek(len(PNG_SIGNATURE))
    for kind, size in _iter_blocks(
        file, ">I4s", texts, padding=4
    ):  # after each chunk, its checksum
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _add_png_text(file, kind, size, texts)
        elif kind == b"eXIf" and size <= MAX_EXIF_BYTES:
            _add_exif(file.read(size), texts)
    return texts


def _add_png_text(file: BinaryIO, kind: bytes, size: int, texts: EmbeddedTexts) -> None:
    head = file.read(min(size, 80))  # a key has at most 79 letters
    key = head.partition(b"\0")[0].decode("latin-1")
    if key not in PNG_KEYS:
        return

    def read() -> str:
        if size > MAX_TEXT_BYTES + 512:  # the text and what stands before it
            raise ValueError(f"{size:,} bytes, at most {MAX_TEXT_BYTES:,} are read")
        data = head + file.read(size - len(head))
        if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(file.read(4)):
            raise ValueError("its checksum is wrong: the file is damaged")
        return _decode_png_text(kind, data)

    texts.add_text_or_error(key, read)


def _decode_png_text(kind: bytes, data: bytes) -> str:
    _, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(rest[1:]).decode("latin-1")
    if len(rest) < 4 or rest.count(b"\0", 2) < 2:
        raise ValueError("an iTXt chunk cut short")
    _, _, text = rest[2:].split(b"\0", 2)  # language and translated key
    return (_inflate(text) if rest[0] else text).decode("utf-8")


def _inflate(data: bytes) -> bytes:
    unzip = zlib.decompressobj()
    text = unzip.decompress(data, MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"unpacks to more than the {MAX_TEXT_BYTES:,} bytes that are read")
    if not unzip.eof:
        raise ValueError("its compressed text is cut short")
    return text


def _read_exif_texts(
    file: BinaryIO, find: Callable[[BinaryIO, EmbeddedTexts], bytes]
) -> EmbeddedTexts:
    texts = EmbeddedTexts()
    _add_exif(find(file, texts), texts)
    return texts


def _find_jpeg_exif(file: BinaryIO, texts: EmbeddedTexts) -> bytes:
    """Return the first Exif segment; pixels begin at the first scan."""
    file.seek(2)
    for _ in range(MAX_BLOCKS):
        marker = file.read(2)
        if marker == b"\xff\xff":  # padding
            file.seek(-1, os.SEEK_CUR)
            continue
        if marker in (b"\xff\xda", b"\xff\xd9"):
            return b""
        length = file.read(2)
        size = int.from_bytes(length) - 2
        if len(length) < 2 or size < 0 or marker[:1] != b"\xff":
            texts.errors.append("the file is damaged or cut short")
            return b""
        here = file.tell()
        if marker == b"\xff\xe1" and file.read(6) == b"Exif\0\0":
            return file.read(size - 6)
        file.seek(here + size)
    texts.errors.append(TOO_MANY_BLOCKS)
    return b""


def _find_webp_exif(file: BinaryIO, texts: EmbeddedTexts) -> bytes:
    file.seek(12)
    for kind, size in _iter_blocks(file, "<4sI", texts):
        if kind == b"EXIF" and size > MAX_EXIF_BYTES:
            texts.errors.append(f"Exif: {size:,} bytes, at most {MAX_EXIF_BYTES:,} are read")
        elif kind == b"EXIF":
            return file.read(size).removeprefix(b"Exif\0\0")
    return b""


def _iter_blocks(
    file: BinaryIO, head: str, texts: EmbeddedTexts, padding: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Yield kind and size of each block, with the file at its content, which is skipped unread.

    padding : bytes after the content; None fills it up to an even size
    """
    end = os.fstat(file.fileno()).st_size
    place = file.tell()
    for _ in range(MAX_BLOCKS):
        file.seek(place)
        start = file.read(8)
        if not start and padding is None:
            return
        first, second = struct.unpack(head, start) if len(start) == 8 else (b"", 0)
        kind, size = (first, second) if isinstance(first, bytes) else (second, first)
        after = size % 2 if padding is None else padding
        if kind == b"IEND":
            return
        if not kind or place + 8 + size > end:
            texts.errors.append("the file is damaged or cut short")
            return
        yield kind, size
        place += 8 + size + after
    texts.errors.append(TOO_MANY_BLOCKS)


def _add_exif(data: bytes, texts: EmbeddedTexts) -> None:
    if not data:
        return
    try:
        fields = parse_raw_exif_tags(data)
    except (ValueError, struct.error) as error:
        texts.errors.append(f"Exif: {error}")
        return
    comment, maker = fields.get(USER_COMMENT), fields.get(MAKER_NOTE, b"")
    if comment:
        texts.add_text_or_error("parameters", partial(decode_user_comment, comment))
    if maker.startswith(b"t2i\0"):
        texts.add_text_or_error("t2i", partial(maker[4:].decode, "utf-8"))
    elif maker.rstrip(b"\0") in (b"fooocus", b"a1111"):
        texts.add_text_or_error("fooocus_scheme", partial(maker.rstrip(b"\0").decode, "ascii"))
    for tag in (MAKE, MODEL):  # ComfyUI writes "prompt:{...}" and "workflow:{...}" here
        key, _, value = fields.get(tag, b"").partition(b":")
        if key in (b"prompt", b"workflow"):
            texts.add_text_or_error(
                key.decode("ascii"), partial(value.rstrip(b"\0").decode, "utf-8")
            )
