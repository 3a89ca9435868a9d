"""webdataset's shards, here or on a web server: where in which archive each picture lies.

Files of an archive that share a name up to its first dot, and follow one another, are one sample: a
picture (`.jpg`), its caption (`.txt`, `.caption`, or `.json` with text or caption) and, if there is
one, its mask (`.mask.png`). The list is made once; then a picture is read where it lies, and any
order costs the same.
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
from t2i.safe_reading import FileKind, open_regular, open_untrusted, parse_json
from train.data.decode import BrokenPicture
from train.data.sources.folder import FOREIGN_SUFFIXES, SUFFIXES
from train.data.sources.listed import (
    MAX_BYTES,
    MAX_CAPTION,
    Listed,
    Listing,
    Source,
    as_caption,
    as_captions,
)
from train.data.sources.metadata import CAPTION_COLUMNS
from train.data.sources.remote import BLOCK, SCHEMES, RemoteFile, RemoteSource

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
TEXTS = (".txt", ".caption", ".json")
MAX_TEXT = 16 * MAX_CAPTION
"""Bytes of a sample's JSON, which may hold more than its caption."""
ARCHIVE = FileKind("archive", 1 << 50)
"""Read where its files lie."""
MAX_HEADER = 64 * 1024
"""Bytes of a member's name and what else is said of it."""
COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
"""How gzip, bzip2, xz and zstd begin."""


@dataclass(frozen=True, slots=True)
class MemberSource:
    """A file in an uncompressed archive."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        if self.size > MAX_BYTES:
            raise BrokenPicture(str(self.archive), f"holds {self.size:,} bytes of one file")
        with open_regular(self.archive) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise BrokenPicture(str(self.archive), "ends in the midst of this file")
        return data


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive.

    key, kind : its name before and after the first dot of the last part, as in ".mask.png"
    text : what it holds, of a kind that may tell the caption
    """

    name: str
    key: str
    kind: str
    source: Source
    size: int
    text: bytes | None


def list_tars(patterns: Sequence[str], caption_column: str | None = None) -> Listing:
    """The samples of all archives, in their order.

    Raises DataError for an archive that cannot be read in place.
    """
    listing = Listing()
    for archive in archives(patterns):
        for parts in samples_in(members(archive, listing)):
            add_sample(parts, archive, caption_column, listing)
    return listing


def samples_in(members: Iterator[Member]) -> Iterator[dict[str, Member]]:
    """The files of each sample by their kind; where a kind comes again, another sample begins."""
    parts: dict[str, Member] = {}
    for member in members:
        if parts and (member.kind in parts or member.key != next(iter(parts.values())).key):
            yield parts
            parts = {}
        parts[member.kind] = member
    if parts:
        yield parts


def add_sample(
    parts: dict[str, Member], archive: str, caption_column: str | None, listing: Listing
) -> None:
    pictures = [part for kind, part in parts.items() if kind in SUFFIXES + FOREIGN_SUFFIXES]
    if not pictures:
        told = ", ".join(part.name for part in parts.values())
        listing.notes.append(f"{archive}: no picture among {told}")
    mask = next((parts[f".mask{end}"] for end in SUFFIXES if f".mask{end}" in parts), None)
    for picture in pictures:
        name = f"{archive}!{picture.name}"
        try:
            if picture.size > MAX_BYTES:
                raise ValueError(f"has {picture.size:,} bytes; at most {MAX_BYTES:,} are read")
            captions = captions_of(parts, caption_column)
        except ValueError as error:
            listing.broken.append(BrokenPicture(name, str(error)))
            continue
        listing.pictures.append(
            Listed(
                name,
                picture.source,
                captions,
                mask.source if mask else None,
                stem=picture.key.rpartition("/")[2],
                folder=archive.rpartition("/")[2],
            )
        )


def captions_of(parts: dict[str, Member], caption_column: str | None) -> tuple[str, ...]:
    """Raises ValueError where what should be a caption is none."""
    told = TEXTS if caption_column is None else (".json",)
    part = next((parts[kind] for kind in told if kind in parts), None)
    if part is None:
        return ()
    if part.text is None:
        raise ValueError(f"its {part.name} has {part.size:,} bytes, far more than a caption")
    try:
        if part.kind != ".json":
            text = as_caption(part.text)
            return (text,) if text else ()
        row = parse_json(part.text, lenient=True)
    except ValueError as error:
        raise ValueError(f"its {part.name} cannot be used: {error}") from None
    columns = CAPTION_COLUMNS if caption_column is None else (caption_column,)
    found = [row[column] for column in columns if isinstance(row, dict) and column in row]
    return as_captions(found[0]) if found else ()


def members(archive: str, listing: Listing) -> Iterator[Member]:
    """The files of an archive in its order; one that is cut short is told and read to its end."""
    source: Callable[[int, int], Source]
    with ExitStack() as stack:
        if archive.startswith(SCHEMES):
            file: io.BufferedReader = stack.enter_context(
                io.BufferedReader(RemoteFile(archive), BLOCK)
            )
            source = partial(RemoteSource, archive)
        else:
            file = stack.enter_context(open_untrusted(archive, ARCHIVE))
            source = partial(MemberSource, Path(archive))
        if file.read(2) in COMPRESSED:
            raise DataError(
                f"{archive} is compressed, so that nothing can be read from its midst: decompress "
                "it first, as with gunzip."
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
                for info in tar:
                    folder, slash, name = info.name.rpartition("/")
                    if not info.isreg() or name.startswith("."):
                        continue
                    stem, dot, kind = name.partition(".")
                    kind = (dot + kind).lower()
                    text = None
                    if kind in TEXTS and info.size <= MAX_TEXT:
                        file.seek(info.offset_data)  # tarfile seeks the next header by itself
                        text = file.read(info.size)
                    place = source(info.offset_data, info.size)
                    yield Member(info.name, folder + slash + stem, kind, place, info.size, text)
        except tarfile.ReadError as error:
            listing.broken.append(BrokenPicture(archive, f"is no whole tar archive ({error})"))


class Headers:
    """An archive as tarfile sees it: a header may ask for no more memory than headers need."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of it claims {size:,} bytes")
        return self.file.read(size)


def archives(patterns: Sequence[str]) -> list[str]:
    """The paths and addresses that the patterns stand for; each must stand for one at least."""
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in in_braces(pattern):
            if "://" in name or name.startswith("pipe:"):
                if not name.startswith(SCHEMES):
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


def in_braces(pattern: str) -> list[str]:
    """All that a pattern with {000..012} or {a,b} in it stands for."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    words = match[1].split(",")
    if span := RANGE.fullmatch(match[1]):
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise ArgumentError(f"tars: {match[0]} in {pattern!r} counts from {first} to {last}.")
        width = len(span[1]) if span[1].startswith("0") else 0
        words = [f"{number:0{width}}" for number in range(first, last + 1)]
    start, end = pattern[: match.start()], in_braces(pattern[match.end() :])
    return [start + word + rest for word in words for rest in end]
