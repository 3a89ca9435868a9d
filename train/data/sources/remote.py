"""Reading of files in archives on a web server, by HTTP range requests."""

import io
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from t2i.errors import DataError
from t2i.safe_reading import PICTURE_KIND
from t2i.terminal import plural
from train.data.decode import BrokenPictureError

URL_SCHEMES = ("http://", "https://")
MAX_ATTEMPTS = 6
"""Number of attempts, 1, 2, 4 ... seconds apart, to survive a short loss of the network."""
TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 256 * 1024
"""Bytes read at a time while an archive is listed; seeks within a block are free."""
PERMANENT_ERROR_STATUSES = (403, 404, 410)


@dataclass(frozen=True, slots=True)
class RemoteTarMemberBytes:
    """Source of the bytes of a file within an uncompressed .tar on a web server."""

    url: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Download the tar member by a range request. Raises BrokenPictureError if it is too large
        or gone.
        """
        if self.size > PICTURE_KIND.max_bytes:
            raise BrokenPictureError(self.url, f"holds {self.size:,} bytes of one file")
        return fetch_range(self.url, self.offset, self.size)


def fetch_range(url: str, offset: int, size: int) -> bytes:
    """Download a range of bytes of a URL.

    Raises BrokenPictureError if the server has no such file, for which another picture can be
    used, and DataError if the server cannot be reached.
    """
    if size == 0:
        return b""
    last = offset + size - 1
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-{last}"})
    for attempt in range(MAX_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                if answer.status != 206:
                    raise _no_ranges(url)
                data: bytes = answer.read(size + 1)  # and no more, whatever it sends
            if len(data) == size:
                return data
            problem = f"{plural(len(data), 'byte')} came of {size}"
        except urllib.error.HTTPError as error:
            if error.code in PERMANENT_ERROR_STATUSES:
                raise BrokenPictureError(url, f"is not there ({error})") from None
            if error.code == 416:
                raise BrokenPictureError(url, "ends in the midst of this file") from None
            problem = str(error)
        except (OSError, EOFError) as error:
            problem = str(error)
        if attempt < MAX_ATTEMPTS - 1:
            time.sleep(2.0**attempt)
    raise DataError(
        f"Cannot read {url}: {problem}, {MAX_ATTEMPTS} times. Go on when the network is back, or "
        "download the archives."
    )


def fetch_content_length(url: str) -> int:
    """Ask a web server for the length of a file in bytes. Raises DataError."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status != 206 or not length.isdecimal():
                raise _no_ranges(url)
            return int(length)
    except OSError as error:
        raise DataError(f"Cannot read {url}: {error}. Check the address.") from error


def _no_ranges(url: str) -> DataError:
    return DataError(
        f"The server of {url} does not support range requests, which reading a picture within the "
        "archive needs: download the archive and name its path."
    )


class RemoteFile(io.RawIOBase):
    """Seekable file on a web server, read by range requests; wrap it in io.BufferedReader."""

    def __init__(self, url: str) -> None:
        self.url, self.length, self.position = url, fetch_content_length(url), 0

    def readable(self) -> bool:
        """Return True, as io.RawIOBase asks: a file on a web server can be read."""
        return True

    def seekable(self) -> bool:
        """Return True, as io.RawIOBase asks: the read position in a file on a web server can be
        set.
        """
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the read position in the file and return it, as io.RawIOBase does."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        """Return the read position in the file on the web server, in bytes."""
        return self.position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Download the next bytes of the file into the buffer and return their number."""
        size = max(0, min(len(buffer), self.length - self.position))
        buffer[:size] = fetch_range(self.url, self.position, size)
        self.position += size
        return size
