"""Pictures as the sources list them, before they are opened: bytes, captions, masks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from t2i.safe_reading import (
    CAPTION_KIND,
    PICTURE_KIND,
    check_no_lone_surrogates,
    decode_utf8,
    read_bounded,
)
from t2i.terminal import plural
from train.data.decode import BrokenPictureError

MAX_PICTURE_BYTES = PICTURE_KIND.max_bytes
MAX_CAPTION_BYTES = CAPTION_KIND.max_bytes


class ByteSource(Protocol):
    """Interface of a source of one file's bytes: on disk, in an archive or table, on a web
    server; picklable.
    """

    def read(self) -> bytes:
        """Return all bytes of the file that this source stands for. Raises OSError, or
        BrokenPictureError with a reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Source of the bytes of a file on disk."""

    path: Path

    def read(self) -> bytes:
        """Return all bytes of the file on disk at the source's path."""
        return read_bounded(self.path, MAX_PICTURE_BYTES)


@dataclass(frozen=True, slots=True)
class PictureEntry:
    """One picture in a listing, not opened yet: the source of its bytes, captions, mask and
    repeats.

    captions : one of them is chosen at each visit; empty if none was found
    repeats : from its folder's name, times those of the subset
    stem, folder : names for caption templates
    loser : the worse picture of a pair of which this is the better
    hint : the picture that a control reads beside it
    """

    name: str
    source: ByteSource
    captions: tuple[str, ...] = ()
    mask: ByteSource | None = None
    repeats: int = 1
    stem: str = ""
    folder: str = ""
    loser: ByteSource | None = None
    hint: ByteSource | None = None


@dataclass(slots=True)
class PictureListing:
    """Result of listing the pictures of one source (a folder, archives, a table).

    broken : pictures that are named there but cannot be used
    notes : remarks on how the source was read
    """

    pictures: list[PictureEntry] = field(default_factory=list)
    broken: list[BrokenPictureError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_byte_source(source: ByteSource, name: str) -> bytes:
    """Read all bytes of a source (a file, a member of a .tar, a cell of a table) and raise
    BrokenPictureError, with the given name, for every failure.
    """
    try:
        return source.read()
    except FileNotFoundError:
        raise BrokenPictureError(name, "is not there") from None
    except OSError as error:
        raise BrokenPictureError(name, f"cannot be read ({error.strerror or error})") from error


def decode_caption_file(data: bytes) -> str:
    """Decode the bytes of a caption file and return its text with lines joined. Raises ValueError
    if they are no text or too many.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise ValueError(
            f"has {plural(len(data), 'byte')}; a caption has at most {MAX_CAPTION_BYTES:,}"
        )
    return " ".join(decode_utf8(data).split())


def parse_caption_cell(value: object) -> tuple[str, ...]:
    """Return the captions in a table's cell: a string, a list of strings, or nothing.

    Raises ValueError for any other value.
    """
    values = value if isinstance(value, list | tuple) else [value]
    texts = [one for one in values if isinstance(one, str)]
    if len(texts) + sum(one is None for one in values) < len(values):
        raise ValueError(f"the caption is {value!r}; expected a string or a list of strings")
    for text in texts:
        check_no_lone_surrogates(text)
    return tuple(plain for text in texts if (plain := " ".join(text.split())))
