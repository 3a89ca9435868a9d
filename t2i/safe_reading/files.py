"""Opening what others wrote: a regular file of bounded size, or an error in words."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader

from t2i.errors import ArgumentError, DataError, ModelError, OutputError, T2IError

MAX_SHOWN_PATH_LETTERS = 200
"""Letters of a path that a message repeats."""
WEB_ADDRESS_PATTERN = re.compile(r"(?:https?|ftp):/", re.IGNORECASE)
"""Start of a web address, also of one that was read as a path, which has one slash."""


@dataclass(frozen=True, slots=True)
class UntrustedFileKind:
    """Kind of file from an untrusted source: its name in messages, size limit and error class.

    noun : as in "Cannot read the caption x.txt"
    max_bytes : of one file; a larger one is an error
    error_class : of the error that is raised for a file that cannot be read
    """

    noun: str
    max_bytes: int
    error_class: type[T2IError] = DataError

    def copy_with_noun(self, noun: str) -> "UntrustedFileKind":
        """Return a copy of this kind of file with the same size limit and error class, but another
        name in messages.
        """
        return replace(self, noun=noun)

    @property
    def noun_with_article(self) -> str:
        """Name of this kind of file with its article, as "a picture", for messages."""
        return f"{'an' if self.noun[0] in 'aeio' else 'a'} {self.noun}"


PICTURE_KIND = UntrustedFileKind("picture", 512 * 1024**2)
CAPTION_KIND = UntrustedFileKind("caption", 64 * 1024)
CAPTION_TABLE_KIND = UntrustedFileKind("table of captions", 1024**3)
"""Table of captions such as a metadata.jsonl; read line by line."""
PROMPTS_FILE_KIND = UntrustedFileKind("file of prompts", 1024**3)
"""Prompts file; read line by line."""
CONFIG_KIND = UntrustedFileKind("config", 1_000_000, ArgumentError)
"""TOML file of a user."""
MODEL_CONFIG_KIND = UntrustedFileKind("config", 1_000_000, ModelError)
"""JSON file of a model folder."""
RUN_FILE_KIND = UntrustedFileKind("file of a run", 256 * 1024**2, OutputError)
"""State, log or index of a training or bulk run, with a record of each of many pictures."""
WEIGHTS_KIND = UntrustedFileKind("weights file", 1 << 50, ModelError)
"""Weights file; mapped into memory, not read. Its header has a bound of its own."""


class UnsafeFileError(OSError):
    """OSError for a file that is not safe to read: a pipe, a device, a name that no file can have,
    or more bytes than the limit. `strerror` says which.
    """

    def __init__(self, path: object, reason: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, reason, str(path))


def open_regular_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> BufferedReader:
    """Open a regular file for reading, never blocking on a pipe or device.

    Raises OSError; UnsafeFileError for anything but a regular file of at most `max_bytes`.
    """
    try:
        check_is_regular_file(path, os.stat(path))  # before it is opened: a device may act on that
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags | getattr(os, "O_NOCTTY", 0))
    except ValueError:
        raise UnsafeFileError(
            path, "no file can be called so (a NUL, or half of a character)"
        ) from None
    try:
        found = os.fstat(descriptor)  # what was opened: the name may mean another by now
        check_is_regular_file(path, found)
        if max_bytes is not None and found.st_size > max_bytes:
            raise UnsafeFileError(
                path, f"it has {found.st_size:,} bytes, at most {max_bytes:,} are read"
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_is_regular_file(path: str | os.PathLike[str], found: os.stat_result) -> None:
    """Raise OSError for anything but a regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    for is_one, what in SPECIAL_FILE_NAMES.items():
        if is_one(found.st_mode):
            raise UnsafeFileError(path, f"it is a {what}, not a file")


SPECIAL_FILE_NAMES = {
    stat.S_ISFIFO: "pipe",
    stat.S_ISSOCK: "socket",
    stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}


@contextmanager
def open_untrusted_file(
    path: str | os.PathLike[str], kind: UntrustedFileKind
) -> Iterator[BufferedReader]:
    """Context manager that opens a file from an untrusted source for reading and yields it; the
    error class of `kind` is raised if it cannot be read.
    """
    try:
        with open_regular_file(path, kind.max_bytes) as file:
            yield file
    except OSError as error:
        if error.errno is None:  # not the system's: so Pillow says what a file holds
            raise
        raise build_unreadable_error(path, kind, error) from error


def read_bounded(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return all bytes of a regular file. Raises OSError if there are more than `max_bytes`."""
    with open_regular_file(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grows, or its size is not known as in /proc
        raise UnsafeFileError(path, f"it has more than the {max_bytes:,} bytes that are read")
    return data


def read_bytes(path: str | os.PathLike[str], kind: UntrustedFileKind) -> bytes:
    """Return all bytes of a file; the error class of `kind` is raised if it cannot be read."""
    try:
        return read_bounded(path, kind.max_bytes)
    except OSError as error:
        raise build_unreadable_error(path, kind, error) from error


def advise_on_missing_file(path: str) -> str:
    """Return the advice that an error message about a missing file ends with: to check the path, or
    to download the file if the path is a web address.
    """
    if WEB_ADDRESS_PATTERN.match(path):
        return "Web addresses are not read: download the file, and give its path."
    return "Check the path."


def build_unreadable_error(
    path: str | os.PathLike[str], kind: UntrustedFileKind, error: OSError
) -> T2IError:
    """Return an error of the kind's class for a file that cannot be read, with the reason."""
    name = os.fspath(path)
    name = name if len(name) <= MAX_SHOWN_PATH_LETTERS else f"{name[:MAX_SHOWN_PATH_LETTERS]}..."
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return kind.error_class(f"No such {kind.noun}: {name}. {advise_on_missing_file(name)}")
    if isinstance(error, IsADirectoryError):
        return kind.error_class(
            f"{name} is a folder, not {kind.noun_with_article}: name one of its files."
        )
    reason = REASON_BY_ERRNO.get(error.errno or 0, error.strerror or str(error))
    return kind.error_class(f"Cannot read the {kind.noun} {name}: {reason}.")


REASON_BY_ERRNO = {
    errno.EACCES: "permission denied",
    errno.ENAMETOOLONG: "the name is longer than a file system takes",
    errno.ELOOP: "its links lead around in a circle",
    errno.EIO: "the disk cannot read it (input/output error)",
}
