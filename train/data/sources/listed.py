"""A picture that was found, before it is opened: where its bytes are, and what was said of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from t2i.safe_reading import CAPTION, PICTURE, check_letters, decode_utf8, read_bounded
from t2i.terminal import several
from train.data.decode import BrokenPicture

MAX_BYTES = PICTURE.most
MAX_CAPTION = CAPTION.most


class Source(Protocol):
    """Where bytes lie. It goes to worker processes, and so holds nothing open."""

    def read(self) -> bytes:
        """Raises OSError, or BrokenPicture with a reason of its own."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    path: Path

    def read(self) -> bytes:
        return read_bounded(self.path, MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Listed:
    """captions : one of them is drawn at each visit; empty where none was found
    loser : the worse picture of a pair, of which this is the better
    repeats : as the place where it lies asks for, times what the subset asks for
    """

    name: str
    source: Source
    captions: tuple[str, ...] = ()
    mask: Source | None = None
    repeats: int = 1
    stem: str = ""
    folder: str = ""
    loser: Source | None = None


@dataclass(slots=True)
class Listing:
    """All that was found in one place.

    broken : what is named there but cannot be used
    notes : what one should know of how the place was read
    """

    pictures: list[Listed] = field(default_factory=list)
    broken: list[BrokenPicture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_bytes(source: Source, name: str) -> bytes:
    """Raises BrokenPicture, whatever went wrong."""
    try:
        return source.read()
    except FileNotFoundError:
        raise BrokenPicture(name, "is not there") from None
    except OSError as error:
        raise BrokenPicture(name, f"cannot be read ({error.strerror or error})") from error


def as_caption(data: bytes) -> str:
    """The text of a caption file, its lines joined.

    Raises ValueError for what is no text.
    """
    if len(data) > MAX_CAPTION:
        raise ValueError(f"has {several(len(data), 'byte')}; a caption has at most {MAX_CAPTION:,}")
    return " ".join(decode_utf8(data).split())


def as_captions(value: object) -> tuple[str, ...]:
    """Of a row of a table: a string or a list of strings; nothing said is no caption.

    Raises ValueError for anything else.
    """
    values = value if isinstance(value, list | tuple) else [value]
    texts = [one for one in values if isinstance(one, str)]
    if len(texts) + sum(one is None for one in values) < len(values):
        raise ValueError(f"the caption is {value!r}; expected a string or a list of strings")
    for text in texts:
        check_letters(text)
    return tuple(plain for text in texts if (plain := " ".join(text.split())))
