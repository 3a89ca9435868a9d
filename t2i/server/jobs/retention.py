"""Removal of old results, of uploads that no job has taken, and of what a crash left behind."""

import shutil
import time
from collections.abc import Set
from pathlib import Path

from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import Uploads


def remove_old_jobs(
    store: JobStore, folder: Path, max_bytes: int, max_age: float, needed: Set[str] = frozenset()
) -> list[str]:
    """Remove finished jobs beyond an age in seconds or a sum of bytes, the oldest first; return
    their identifiers.

    needed : jobs that others will read, which stay
    """
    finished = store.list_finished()
    total = sum(num_bytes for _, _, num_bytes in finished)
    oldest = time.time() - max_age
    removed = []
    for job_id, ended, num_bytes in finished:
        if ended >= oldest and total <= max_bytes:
            continue
        if job_id in needed:
            continue
        store.remove(job_id)
        shutil.rmtree(folder / job_id, ignore_errors=True)
        total -= num_bytes
        removed.append(job_id)
    return removed


def remove_orphans(store: JobStore, folder: Path) -> None:
    """Remove the folders of jobs that the store does not know, as a crash leaves them."""
    known = store.list_identifiers()
    for path in folder.iterdir():
        if path.name not in known:
            shutil.rmtree(path, ignore_errors=True)


def remove_old_uploads(uploads: Uploads, max_age: float) -> None:
    """Remove the uploads that are older than an age in seconds."""
    uploads.remove_before(time.time() - max_age)


def measure_folder(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
