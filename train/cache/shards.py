"""Arrays by keys, in safetensors files that are whole or not there.

A file is named by the digest of its bytes and says in its header which keys it holds. Several runs
may add to one folder: none changes what another wrote.
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

from t2i.atomic_files import write_atomically, write_error
from t2i.errors import DataError
from t2i.safe_reading import open_regular, parse_json
from t2i.safe_reading.tensors import open_tensors

Arrays = Mapping[str, NDArray[Any]]
DIGITS = 32
"""Of a digest in a name."""
OPEN = 32
"""Files held open at a time."""
ABANDONED = 3600
"""Seconds after which an unfinished file is taken for what a kill left behind."""


class Entry(NamedTuple):
    """Where the arrays of a key are: in a file under their names, behind a number."""

    file: str
    number: int
    names: tuple[str, ...]


class Shards:
    """A folder of such files. It can be sent to other processes, which open the files anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, Entry] = {}
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("[0-9a-f]*.safetensors"))

    def damaged(self, files: Collection[str]) -> list[str]:
        """Those that are not what was written."""
        return [name for name in files if not is_whole(self.folder / name)]

    def discard(self, files: Collection[str]) -> None:
        """Take files away, and what a kill left unfinished.

        Raises OutputError where the disk refuses.
        """
        old = time.time() - ABANDONED
        for path in [self.folder / name for name in files] + [*self.folder.glob(".*.part")]:
            try:
                if path.name in files or path.stat().st_mtime < old:
                    path.unlink()
            except FileNotFoundError:  # another run was quicker
                continue
            except OSError as error:
                raise write_error(path, error) from error

    def look(self, files: Collection[str] | None = None) -> None:
        """Take notice of what is there, or of some files. Of a key that stands twice the last file
        counts.
        """
        self._entries = {}
        for name in self.files() if files is None else files:
            try:
                with open_tensors(self.folder / name, "numpy") as file:
                    keys, names = parse_json(file.metadata()["keys"]), sorted(file.keys())
            except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
                raise unreadable(self.folder / name) from error
            held: dict[int, list[str]] = {}
            for full in names:
                number, _, own = full.partition(".")
                held.setdefault(int(number), []).append(own)
            for number, key in enumerate(keys):
                self._entries[key] = Entry(name, number, tuple(held[number]))

    def read(self, key: str) -> dict[str, NDArray[Any]]:
        """The arrays of a key that is there."""
        entry = self._entries[key]
        try:
            file = self._file(entry.file)
            return {name: file.get_tensor(f"{entry.number}.{name}") for name in entry.names}
        except (OSError, SafetensorError) as error:
            raise unreadable(self.folder / entry.file) from error

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = open_tensors(self.folder / name, "numpy")
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]


class Writer:
    """Gathers entries and writes a file whenever there is enough for one."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._keys: list[str] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        self._bytes = 0

    def add(self, key: str, arrays: Arrays) -> None:
        """Raises OutputError where the disk refuses."""
        number = len(self._keys)
        self._keys.append(key)
        for name, array in arrays.items():
            self._arrays[f"{number}.{name}"] = np.ascontiguousarray(array)
            self._bytes += array.nbytes
        if self._bytes >= self.most_bytes:
            self.flush()

    def flush(self) -> None:
        if not self._keys:
            return
        data = save(self._arrays, {"keys": json.dumps(self._keys)})
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:DIGITS]}.safetensors"
        write_atomically(path, lambda part: part.write_bytes(data))
        self._keys, self._arrays, self._bytes = [], {}, 0


def is_whole(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS] == path.stem
    except OSError:
        return False


def unreadable(path: Path) -> DataError:
    return DataError(
        f"The file {path} of the cache cannot be read any more: start the run again, which makes "
        "it anew."
    )
