"""Listing of webdataset shards, on disk or on a web server.

Files of an archive that share a name up to its first dot, and follow one another, are one sample: a
picture (`.jpg`), its caption (`.txt`, `.caption`, or `.json` with text or caption) and, if any, its
mask (`.mask.png`) and its hint (`.hint.png`). The archives are listed once; then pictures
are read in place, in any order at the same cost.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path

from t2i.errors import ArgumentError, DataError
from t2i.safe_reading import UntrustedFileKind, open_regular_file, open_untrusted_file, parse_json
from train.data.decode import BrokenPictureError
from train.data.sources.folder import PICTURE_SUFFIXES, UNREADABLE_PICTURE_SUFFIXES
from train.data.sources.listing import (
    MAX_CAPTION_BYTES,
    MAX_PICTURE_BYTES,
    ByteSource,
    PictureEntry,
    PictureListing,
    decode_caption_file,
    parse_caption_cell,
)
from train.data.sources.metadata import CAPTION_COLUMNS
from train.data.sources.remote import BLOCK_BYTES, URL_SCHEMES, RemoteFile, RemoteTarMemberBytes

BRACES_PATTERN = re.compile(r"\{([^{}]*)\}")
NUMBER_RANGE_PATTERN = re.compile(r"(\d+)\.\.(\d+)")
TEXT_SUFFIXES = (".txt", ".caption", ".json")
MAX_JSON_BYTES = 16 * MAX_CAPTION_BYTES
"""Greatest number of bytes of a sample's JSON, which may hold more than its caption."""
ARCHIVE_KIND = UntrustedFileKind("archive", 1 << 50)
"""Kind of an archive for reading, whose size is not limited in effect."""
MAX_HEADER_BYTES = 64 * 1024
"""Greatest number of bytes of a member's header."""
COMPRESSION_SIGNATURES = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
"""First bytes of gzip, bzip2, xz and zstd files."""


@dataclass(frozen=True, slots=True)
class TarMemberBytes:
    """Source of the bytes of a file within an uncompressed .tar on disk."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes of one file within a .tar on disk. Raises BrokenPictureError if it is
        too large or cut off.
        """
        if self.size > MAX_PICTURE_BYTES:
            raise BrokenPictureError(str(self.archive), f"holds {self.size:,} bytes of one file")
        with open_regular_file(self.archive) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise BrokenPictureError(str(self.archive), "ends in the midst of this file")
        return data


@dataclass(frozen=True, slots=True)
class TarMember:
    """Name, source and size of one file within a .tar.

    key, kind : its name before and after the first dot of the last path part, as in ".mask.png"
    text : its content, if its kind can hold a caption
    """

    name: str
    key: str
    kind: str
    source: ByteSource
    size: int
    text: bytes | None


def list_tar_pictures(
    patterns: Sequence[str], caption_column: str | None = None, hint_column: str | None = None
) -> PictureListing:
    """List the pictures of webdataset shards with their captions, in the order of the archives.

    hint_column : name of the members with hints, as "hint" of `key.hint.png`; None reads none

    Raises DataError for an archive that cannot be read in place.
    """
    listing = PictureListing()
    for archive in expand_tar_patterns(patterns):
        for parts in group_members_by_sample(iterate_tar_members(archive, listing)):
            _add_sample(parts, archive, caption_column, hint_column, listing)
    return listing


def group_members_by_sample(members: Iterator[TarMember]) -> Iterator[dict[str, TarMember]]:
    """Yield the files of each webdataset sample (picture, caption, mask) by suffix; a repeated
    suffix begins another sample.
    """
    parts: dict[str, TarMember] = {}
    for member in members:
        if parts and (member.kind in parts or member.key != next(iter(parts.values())).key):
            yield parts
            parts = {}
        parts[member.kind] = member
    if parts:
        yield parts


def _add_sample(
    parts: dict[str, TarMember],
    archive: str,
    caption_column: str | None,
    hint_column: str | None,
    listing: PictureListing,
) -> None:
    pictures = [
        part
        for kind, part in parts.items()
        if kind in PICTURE_SUFFIXES + UNREADABLE_PICTURE_SUFFIXES
    ]
    if not pictures:
        names = ", ".join(part.name for part in parts.values())
        listing.notes.append(f"{archive}: no picture among {names}")
    mask = _find_companion(parts, "mask")
    hint = None if hint_column is None else _find_companion(parts, hint_column.lower())
    for picture in pictures:
        name = f"{archive}!{picture.name}"
        try:
            if picture.size > MAX_PICTURE_BYTES:
                raise ValueError(
                    f"has {picture.size:,} bytes; at most {MAX_PICTURE_BYTES:,} are read"
                )
            captions = _sample_captions(parts, caption_column)
        except ValueError as error:
            listing.broken.append(BrokenPictureError(name, str(error)))
            continue
        listing.pictures.append(
            PictureEntry(
                name,
                picture.source,
                captions,
                mask.source if mask else None,
                stem=picture.key.rpartition("/")[2],
                folder=archive.rpartition("/")[2],
                hint=hint.source if hint else None,
            )
        )


def _find_companion(parts: dict[str, TarMember], name: str) -> TarMember | None:
    """Return the sample's member of this name, as "mask" of `key.mask.png`, or None."""
    kinds = (f".{name}{suffix}" for suffix in PICTURE_SUFFIXES)
    return next((parts[kind] for kind in kinds if kind in parts), None)


def _sample_captions(parts: dict[str, TarMember], caption_column: str | None) -> tuple[str, ...]:
    """Return the captions of a sample. Raises ValueError if its caption file is unusable."""
    kinds = TEXT_SUFFIXES if caption_column is None else (".json",)
    part = next((parts[kind] for kind in kinds if kind in parts), None)
    if part is None:
        return ()
    if part.text is None:
        raise ValueError(f"its {part.name} has {part.size:,} bytes, far more than a caption")
    try:
        if part.kind != ".json":
            text = decode_caption_file(part.text)
            return (text,) if text else ()
        row = parse_json(part.text, lenient=True)
    except ValueError as error:
        raise ValueError(f"its {part.name} cannot be used: {error}") from None
    columns = CAPTION_COLUMNS if caption_column is None else (caption_column,)
    found = [row[column] for column in columns if isinstance(row, dict) and column in row]
    return parse_caption_cell(found[0]) if found else ()


def iterate_tar_members(archive: str, listing: PictureListing) -> Iterator[TarMember]:
    """Yield the files of a .tar in order; an incomplete .tar is added to the listing's broken
    ones.
    """
    source: Callable[[int, int], ByteSource]
    with ExitStack() as stack:
        if archive.startswith(URL_SCHEMES):
            file: io.BufferedReader = stack.enter_context(
                io.BufferedReader(RemoteFile(archive), BLOCK_BYTES)
            )
            source = partial(RemoteTarMemberBytes, archive)
        else:
            file = stack.enter_context(open_untrusted_file(archive, ARCHIVE_KIND))
            source = partial(TarMemberBytes, Path(archive))
        if file.read(2) in COMPRESSION_SIGNATURES:
            raise DataError(
                f"{archive} is compressed, so that nothing can be read from its midst: decompress "
                "it first, as with gunzip."
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=BoundedTarHeaderReader(file), mode="r:") as tar:  # type: ignore[call-overload]
                for info in tar:
                    folder, slash, name = info.name.rpartition("/")
                    if not info.isreg() or name.startswith("."):
                        continue
                    stem, dot, kind = name.partition(".")
                    kind = (dot + kind).lower()
                    text = None
                    if kind in TEXT_SUFFIXES and info.size <= MAX_JSON_BYTES:
                        file.seek(info.offset_data)  # tarfile seeks the next header by itself
                        text = file.read(info.size)
                    place = source(info.offset_data, info.size)
                    yield TarMember(info.name, folder + slash + stem, kind, place, info.size, text)
        except tarfile.ReadError as error:
            listing.broken.append(BrokenPictureError(archive, f"is no whole tar archive ({error})"))


class BoundedTarHeaderReader:
    """File wrapper for tarfile that refuses to read headers of more than 64 KiB."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of a .tar, for tarfile to read its headers; raises
        tarfile.ReadError where it asks for more bytes than a header may have.
        """
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of it claims {size:,} bytes")
        return self.file.read(size)


def expand_tar_patterns(patterns: Sequence[str]) -> list[str]:
    """Return the paths and URLs of the archives that the patterns match.

    Raises DataError for a pattern without a match, ArgumentError for an unsupported URL.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in expand_braces(pattern):
            if "://" in name or name.startswith("pipe:"):
                if not name.startswith(URL_SCHEMES):
                    raise ArgumentError(
                        f"tars: {name!r} cannot be read in place; expected a path, or an address "
                        "with http:// or https://. Download the archives and name their paths."
                    )
                found[name] = None
                continue
            paths = sorted(glob(name)) if has_magic(name) else [name]
            missing = [path for path in paths if not Path(path).is_file()]
            if not paths or missing:
                raise DataError(f"No such archive: {missing[0] if missing else name}.")
            found |= dict.fromkeys(paths)
    return list(found)


def expand_braces(pattern: str) -> list[str]:
    """Return all names that a pattern with {000..012} or {a,b} in it stands for."""
    match = BRACES_PATTERN.search(pattern)
    if match is None:
        return [pattern]
    words = match[1].split(",")
    if span := NUMBER_RANGE_PATTERN.fullmatch(match[1]):
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise ArgumentError(f"tars: {match[0]} in {pattern!r} counts from {first} to {last}.")
        width = len(span[1]) if span[1].startswith("0") else 0
        words = [f"{number:0{width}}" for number in range(first, last + 1)]
    start, end = pattern[: match.start()], expand_braces(pattern[match.end() :])
    return [start + word + rest for word in words for rest in end]
