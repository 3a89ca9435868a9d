"""Removal of old results and uploads, and of what a crash left behind."""

import math
import shutil
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import UploadStore

GRACE = 600.0
"""Seconds in which an upload waits for its job, and a file for its entry in the store."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Limits on the results and uploads that a server keeps: their bytes together, and their ages
    in seconds.

    needed : jobs whose results others will read, which stay
    """

    max_bytes: int
    max_age: float
    upload_age: float
    needed: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RemovalCandidate:
    """Files of a finished job or of an upload that may be removed: since when they exist, until
    when they may stay, from when they may go for lack of room, and a function that removes them.
    """

    since: float
    until: float
    removable_from: float
    num_bytes: int
    remove: Callable[[], None]


def remove_old_files(
    store: JobStore, folder: Path, uploads: UploadStore, bounds: RetentionLimits
) -> None:
    """Remove results and uploads beyond their ages, and beyond a sum of bytes the oldest first.

    An upload that a job has taken counts twice, for either may be removed without the other.
    """
    now = time.time()
    kept = [
        *_list_results(store, folder, bounds),
        *_list_uploads(uploads, bounds),
    ]
    total = sum(one.num_bytes for one in kept)
    for one in sorted(kept, key=lambda one: one.since):
        too_much = total > bounds.max_bytes and one.num_bytes and one.removable_from < now
        if one.until < now or too_much:
            one.remove()
            total -= one.num_bytes


def _list_results(store: JobStore, folder: Path, bounds: RetentionLimits) -> list[RemovalCandidate]:
    def remove(job_id: str) -> None:
        store.remove(job_id)
        shutil.rmtree(folder / job_id, ignore_errors=True)

    kept = []
    for job_id, ended, num_bytes in store.list_finished_times_and_bytes():
        until, removable_from = ended + bounds.max_age, ended
        if job_id in bounds.needed:
            until = removable_from = math.inf
        kept.append(
            RemovalCandidate(ended, until, removable_from, num_bytes, partial(remove, job_id))
        )
    return kept


def _list_uploads(uploads: UploadStore, bounds: RetentionLimits) -> list[RemovalCandidate]:
    return [
        RemovalCandidate(
            since,
            since + bounds.upload_age,
            since + GRACE,
            num_bytes,
            partial(uploads.remove, upload_id, suffix),
        )
        for upload_id, suffix, since, num_bytes in uploads.store.list_upload_times_and_bytes()
    ]


def remove_orphan_job_folders(store: JobStore, folder: Path) -> None:
    """Remove the folders of jobs that the store does not know, as a crash leaves them."""
    known = store.list_identifiers()
    for path in folder.iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)


def remove_orphan_uploads(uploads: UploadStore, min_age: float) -> None:
    """Remove the files of uploads that the store does not know, and the entries without a file.

    min_age : seconds since a file was written, while an upload may be on its way
    """
    names = {f"{one[0]}{one[1]}": one for one in uploads.store.list_upload_times_and_bytes()}
    found = set()
    for path in uploads.folder.iterdir():
        found.add(path.name)
        if path.name not in names and path.stat().st_mtime <= time.time() - min_age:
            path.unlink(missing_ok=True)
    for name in names.keys() - found:
        uploads.remove(names[name][0], names[name][1])


def compute_folder_bytes(folder: Path) -> int:
    """Return the total size in bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
