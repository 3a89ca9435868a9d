"""Arrays by keys, in safetensors files that are written completely or not at all.

A file is named by the digest of its bytes and lists its keys in its header. Several runs may add
files to one folder; none changes the file of another.
"""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from t2i.atomic_files import build_write_error, write_atomically
from t2i.errors import DataError
from t2i.safe_reading import open_regular_file, parse_json
from t2i.safe_reading.tensors import open_tensors

ArraysByName = Mapping[str, NDArray[Any]]
DIGEST_DIGITS = 32
"""Digits of the digest in a file name."""
MAX_OPEN_FILES = 32
"""Files that are kept open at a time."""
ABANDONED_FILE_SECONDS = 3600
"""Age in seconds from which on an unfinished file is removed: a killed run left it."""


class CachedArraysLocation(NamedTuple):
    """Location of the arrays of one cache key: a safetensors file, and the names of its tensors
    there.
    """

    file: str
    number: int
    names: tuple[str, ...]


class ShardFolder:
    """Folder of safetensors files that holds the cache's arrays by key; picklable for worker
    processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, CachedArraysLocation] = {}
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def list_file_names(self) -> list[str]:
        """List the names of the cache files in the folder."""
        return sorted(path.name for path in self.folder.glob("[0-9a-f]*.safetensors"))

    def list_damaged_files(self, files: Collection[str]) -> list[str]:
        """Return the names of the damaged files, whose bytes do not match the digest in their
        name.
        """
        return [name for name in files if not matches_digest_in_name(self.folder / name)]

    def delete_files_and_stale_parts(self, files: Collection[str]) -> None:
        """Delete the named files, and the unfinished files (.part) that a killed run left an hour
        ago or longer.

        Raises OutputError where the disk refuses.
        """
        oldest = time.time() - ABANDONED_FILE_SECONDS
        for path in [self.folder / name for name in files] + [*self.folder.glob(".*.part")]:
            try:
                if path.name in files or path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # another run was quicker
                continue
            except OSError as error:
                raise build_write_error(path, error) from error

    def index_files(self, files: Collection[str] | None = None) -> None:
        """Rebuild the map from cache key to file, from all files or the given ones; where
        several hold a key, the last one is used.

        Raises DataError for a file that cannot be read.
        """
        self._entries = {}
        for name in self.list_file_names() if files is None else files:
            try:
                with open_tensors(self.folder / name, "numpy") as file:
                    keys, names = parse_json(file.metadata()["keys"]), sorted(file.keys())
            except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
                raise build_unreadable_error(self.folder / name) from error
            held: dict[int, list[str]] = {}
            for full in names:
                number, _, own = full.partition(".")
                held.setdefault(int(number), []).append(own)
            for number, key in enumerate(keys):
                self._entries[key] = CachedArraysLocation(name, number, tuple(held[number]))

    def read(self, key: str) -> dict[str, NDArray[Any]]:
        """Read the arrays of a cache key. Raises DataError where its file cannot be read."""
        entry = self._entries[key]
        try:
            file = self._file(entry.file)
            return {name: file.get_tensor(f"{entry.number}.{name}") for name in entry.names}
        except (OSError, SafetensorError) as error:
            raise build_unreadable_error(self.folder / entry.file) from error

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = open_tensors(self.folder / name, "numpy")
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]


class ShardWriter:
    """Writer of arrays by cache key to safetensors files of about `most_bytes` bytes each."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._keys: list[str] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._bytes = 0

    def add(self, key: str, arrays: ArraysByName) -> None:
        """Add the arrays of a cache key, and write a file if enough have come together.

        Raises OutputError where the disk refuses.
        """
        number = len(self._keys)
        self._keys.append(key)
        for name, array in arrays.items():
            self._arrays[f"{number}.{name}"] = np.ascontiguousarray(array)
            self._bytes += array.nbytes
        if self._bytes >= self.most_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the added arrays that are in no file yet. Raises OutputError where the disk
        refuses.
        """
        if not self._keys:
            return
        data = save(self._arrays, {"keys": json.dumps(self._keys)})
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]}.safetensors"
        write_atomically(path, lambda part: part.write_bytes(data))
        self._keys, self._arrays, self._bytes = [], {}, 0


def matches_digest_in_name(path: Path) -> bool:
    """Return True if the bytes of a file have the digest in its name."""
    try:
        with open_regular_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS] == path.stem
    except OSError:
        return False


def build_unreadable_error(path: Path) -> DataError:
    """Return a DataError for a cache file that became unreadable during the run."""
    return DataError(
        f"The file {path} of the cache cannot be read any more: start the run again, which makes "
        "it anew."
    )
