"""Uploads that a job has taken: links of its own, which stay when the uploads expire."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from t2i.server.jobs.uploads import Uploads


def take_uploads(uploads: Uploads, folder: Path, owner: str) -> Callable[[str], Path]:
    """Return a function that links an owner's upload into a job's folder and returns its path."""

    def find(upload_id: str) -> Path:
        upload = uploads.get(upload_id, owner)
        path = folder / upload.id / upload.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(upload.path, path)
            except OSError:  # a file system without links
                shutil.copyfile(upload.path, path)
        return path

    return find


def find_taken_uploads(folder: Path, names: dict[str, str]) -> Callable[[str], Path]:
    """Return a function that returns the path of an upload which a job has taken.

    names : is given its path -> its own name
    """

    def find(upload_id: str) -> Path:
        path = next(iter((folder / upload_id).iterdir()))
        names[str(path)] = path.name
        return path

    return find
