"""Pictures that clients upload, for the jobs that name them."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t2i.atomic_files import write_atomically
from t2i.errors import DataError
from t2i.pictures import FORMAT_BY_SUFFIX, opening_picture_as_stored
from t2i.server.jobs.job import JobNotFoundError, StorageFullError, create_identifier
from t2i.server.jobs.store import JobStore

MAX_NAME_BYTES = 200
"""Bytes of a picture's own name."""
MAX_PICTURES_DECODED_AT_ONCE = 2
"""Pictures that are decoded together: one may take a quarter of a gigabyte."""
SUFFIX_BY_FORMAT = {form: suffix for suffix, form in reversed(FORMAT_BY_SUFFIX.items())}
"""Name of a format in Pillow -> suffix of its files."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Uploaded picture: identifier, own name without folders, file, and size in pixels."""

    id: str
    name: str
    path: Path
    width: int
    height: int


class UploadStore:
    """Store of the uploaded pictures of all owners: their files in a folder, their entries in the
    job store.

    check_room : raises StorageFullError where the disk has no room for another one
    decoding : held by whoever decodes a picture; not while another one is added
    """

    def __init__(self, store: JobStore, folder: Path, check_room: Callable[[], None]) -> None:
        self.store, self.folder, self.check_room = store, folder, check_room
        self.decoding = threading.BoundedSemaphore(MAX_PICTURES_DECODED_AT_ONCE)
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, data: bytes, name: str, owner: str) -> Upload:
        """Check a picture and store it as an upload. Raises DataError for a file that is no
        picture, StorageFullError.

        name : that it had where it comes from
        """
        self.check_room()
        upload_id = create_identifier()
        name = sanitise_name(name)
        waiting = self.folder / f".{upload_id}"
        write_atomically(waiting, lambda path: path.write_bytes(data))
        try:
            with self.decoding, opening_picture_as_stored(waiting) as picture:
                suffix, (width, height) = SUFFIX_BY_FORMAT[picture.format or ""], picture.size
            waiting.rename(self.folder / f"{upload_id}{suffix}")
        except DataError as error:
            raise DataError(str(error).replace(str(waiting), name or "The picture")) from None
        finally:
            waiting.unlink(missing_ok=True)
        name = name or f"picture{suffix}"
        values = (upload_id, owner, name, suffix, width, height, time.time(), len(data))
        self.store.insert_upload_row(values)
        return Upload(upload_id, name, self.folder / f"{upload_id}{suffix}", width, height)

    def get(self, upload_id: str, owner: str) -> Upload:
        """Return an owner's upload. Raises JobNotFoundError."""
        values = self.store.get_upload(upload_id)
        if values is None or values[1] != owner:
            raise JobNotFoundError(
                f"No upload {upload_id!r:.80}: it has expired, or never was. Upload it again."
            )
        path = self.folder / f"{values[0]}{values[3]}"
        return Upload(values[0], values[2], path, values[4], values[5])

    def remove(self, upload_id: str, suffix: str) -> None:
        """Remove an uploaded picture; jobs keep their own links to it."""
        self.store.remove_upload(upload_id)
        (self.folder / f"{upload_id}{suffix}").unlink(missing_ok=True)


def sanitise_name(name: str) -> str:
    """Return the last part of a path that a client sent, as printable text."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(letter for letter in last if letter.isprintable())
    text = printable.encode(errors="ignore")[-MAX_NAME_BYTES:].decode(errors="ignore").strip()
    return "" if text in (".", "..") else text


def check_free_space(folder: Path, min_free_bytes: int) -> None:
    """Raise StorageFullError if the disk of a folder has fewer free bytes than are needed."""
    free = shutil.disk_usage(folder).free
    if free < min_free_bytes:
        raise StorageFullError(
            f"The disk has {free / 1e6:.0f} MB left, and new jobs need "
            f"{min_free_bytes / 1e6:.0f} MB: remove old jobs, or free some space."
        )
