"""Bytes of a file on a web server, by ranges: an archive is used where it lies, in any order."""

import io
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from t2i.errors import DataError
from t2i.safe_reading import PICTURE
from t2i.terminal import several
from train.data.decode import BrokenPicture

SCHEMES = ("http://", "https://")
TRIES = 6
"""Waiting 1, 2, 4 ... seconds between them: no picture is given up for a moment without network."""
TIMEOUT = 60.0
BLOCK = 256 * 1024
"""Read at a time while an archive's list is made; a seek within it costs nothing."""
GONE = (403, 404, 410)


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A file in an uncompressed archive on a web server."""

    url: str
    offset: int
    size: int

    def read(self) -> bytes:
        if self.size > PICTURE.most:
            raise BrokenPicture(self.url, f"holds {self.size:,} bytes of one file")
        return fetch(self.url, self.offset, self.size)


def fetch(url: str, offset: int, size: int) -> bytes:
    """Raises BrokenPicture where the server has no such file, DataError where it cannot be asked.

    Only the first is a fault of the file, for which another picture may stand in.
    """
    if size == 0:
        return b""
    last = offset + size - 1
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-{last}"})
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if answer.status != 206:
                    raise no_ranges(url)
                data: bytes = answer.read(size + 1)  # and no more, whatever it sends
            if len(data) == size:
                return data
            problem = f"{several(len(data), 'byte')} came of {size}"
        except urllib.error.HTTPError as error:
            if error.code in GONE:
                raise BrokenPicture(url, f"is not there ({error})") from None
            if error.code == 416:
                raise BrokenPicture(url, "ends in the midst of this file") from None
            problem = str(error)
        except (OSError, EOFError) as error:
            problem = str(error)
        if attempt < TRIES - 1:
            time.sleep(2.0**attempt)
    raise DataError(
        f"Cannot read {url}: {problem}, {TRIES} times. Go on when the network is back, or download "
        "the archives."
    )


def length_of(url: str) -> int:
    """In bytes. Raises DataError."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            told = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status != 206 or not told.isdecimal():
                raise no_ranges(url)
            return int(told)
    except OSError as error:
        raise DataError(f"Cannot read {url}: {error}. Check the address.") from error


def no_ranges(url: str) -> DataError:
    return DataError(
        f"The server of {url} gives no ranges of a file, so that a picture in the archive cannot "
        "be reached: download the archive and name its path."
    )


class RemoteFile(io.RawIOBase):
    """A file on a web server, to be read and sought in; wrap it in io.BufferedReader."""

    def __init__(self, url: str) -> None:
        self.url, self.length, self.place = url, length_of(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        self.place = start + offset
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self.length - self.place))
        buffer[:size] = fetch(self.url, self.place, size)
        self.place += size
        return size
