"""`index.jsonl`: the outcome of each job of a bulk run.

While they work, each process appends to a part of its own, `index.0.jsonl` and so on; an incomplete
line does not count. The main process merges the parts, in the order of the jobs.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t2i.atomic_files import build_write_error, write_atomically
from t2i.errors import OutputError
from t2i.safe_reading import RUN_FILE_KIND, open_regular_file, parse_json, read_bounded

INDEX_FILE = "index.jsonl"
INDEX_PART_PATTERN = re.compile(r"index\.\d+\.jsonl")

IndexEntry = dict[str, Any]
"""One line of index.jsonl: job, line, seed and request; then file and seconds, or error."""


def index_part_path(folder: Path, rank: int) -> Path:
    """Return the path of the part of a bulk run's index.jsonl that the process of a rank writes."""
    return folder / f"index.{rank}.jsonl"


class IndexPartWriter:
    """Writer of one process's part of a bulk run's index.jsonl, which records the finished and the
    failed jobs.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = index_part_path(folder, rank)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            self._descriptor = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise build_write_error(self.path, error) from error

    def append_entry(self, entry: Mapping[str, object]) -> None:
        """Append the index entry of one job of a bulk run as a line and flush it to disk. Raises
        OutputError.
        """
        data = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise build_write_error(self.path, error) from error

    def close(self) -> None:
        """Close the file with this process's part of a bulk run's index.jsonl."""
        os.close(self._descriptor)


class FinishedJobCounter:
    """Counter of the finished and failed jobs of all processes of a bulk run, read from the parts
    of index.jsonl that they write.

    num_generated, num_failed : jobs with an image, jobs with an error, as of the last update
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self.num_generated = self.num_failed = 0
        self._read = {index_part_path(folder, rank): 0 for rank in range(ranks)}

    @property
    def num_finished(self) -> int:
        """Number of jobs of a bulk run, over all processes, that have generated their image or have
        failed, as of the last update.
        """
        return self.num_generated + self.num_failed

    def update(self) -> None:
        """Count the finished and failed jobs that the processes of a bulk run have added to their
        parts of index.jsonl since the last update.
        """
        for path, start in self._read.items():
            if not path.exists():
                continue
            with open_regular_file(path) as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[path] = start + len(whole) + len(newline)
            for entry in parse_index_entries(whole):
                self.num_failed += "error" in entry
                self.num_generated += "error" not in entry


def merge_index_parts(folder: Path) -> dict[int, IndexEntry]:
    """Merge the parts of a bulk run's index.jsonl, one of each process, into one file and return
    the entry of each job, by the job's number.

    A later entry replaces an earlier one, but a failure never replaces an image. Raises OutputError
    for an index that cannot be read or written.
    """
    parts = sorted(path for path in folder.iterdir() if INDEX_PART_PATTERN.fullmatch(path.name))
    known: dict[int, IndexEntry] = {}
    for path in (folder / INDEX_FILE, *parts):
        for entry in parse_index_entries(_read_index(path)):
            if "error" not in entry or "error" in known.get(entry["job"], entry):
                known[entry["job"]] = entry
    known = dict(sorted(known.items()))
    if parts:
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in known.values())
        write_atomically(folder / INDEX_FILE, lambda part: part.write_text(text, "utf-8"))
        for path in parts:
            path.unlink()
    return known


def _read_index(path: Path) -> bytes:
    try:
        return read_bounded(path, RUN_FILE_KIND.max_bytes) if path.exists() else b""
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror or error}.") from error


def parse_index_entries(data: bytes) -> Iterator[IndexEntry]:
    """Parse the lines of an index.jsonl, and yield the entry of one job for each.

    A line that a kill or a full disk cut short, or that another program wrote, is skipped.
    """
    for line in data.split(b"\n"):
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("job"), int):
            yield entry
