"""The inputs of a job: uploads, as links of its own that stay when they expire, and the source
that another job has recorded.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from t2i.cli.request.request import Request
from t2i.errors import ArgumentError
from t2i.server.jobs.job import Job, JobKind
from t2i.server.jobs.job_request import JobRequest, parse_job_request
from t2i.server.jobs.request_building import resolve_job_request
from t2i.server.jobs.server_state import ServerState
from t2i.server.jobs.store import JobStore
from t2i.server.jobs.uploads import UploadStore

SOURCE_KINDS: tuple[JobKind, ...] = ("remember", "invert")


def make_upload_linker(uploads: UploadStore, folder: Path, owner: str) -> Callable[[str], Path]:
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


def make_linked_upload_finder(folder: Path, names: dict[str, str]) -> Callable[[str], Path]:
    """Return a function that returns, for the identifier of an upload, the path at which a job has
    linked the upload into its folder.

    names : is given its path -> its own name
    """

    def find(upload_id: str) -> Path:
        path = next(iter((folder / upload_id).iterdir()))
        names[str(path)] = path.name
        return path

    return find


def find_source_job(store: JobStore, request: JobRequest, owner: str) -> Job | None:
    """Return the job that recorded the source which a request names; None if it names none.

    Raises JobNotFoundError, and ArgumentError for a job that records none or is not done.
    """
    source_id = getattr(request, "source", None)
    if source_id is None:
        return None
    source = store.get_own(source_id, owner)
    if source.kind not in SOURCE_KINDS:
        raise ArgumentError(
            f"The job {source_id} is of the kind {source.kind}, which records no source: "
            f"expected one of {' and '.join(SOURCE_KINDS)}."
        )
    if source.state != "done":
        reason = "" if source.error is None else f" ({source.error.message.rstrip('.')})"
        raise ArgumentError(
            f"The job {source_id} is {source.state}{reason}: a source can be used once it is done."
        )
    return source


def build_source_request(
    state: ServerState, source: Job, names: dict[str, str] | None = None
) -> Request:
    """Return the command-line request with which a job recorded a source that later edits read.

    names : is given the paths of its pictures -> their own names
    """
    body = parse_job_request(source.kind, source.request)
    find = make_linked_upload_finder(
        state.get_input_folder(source.id), {} if names is None else names
    )
    return resolve_job_request(body, state.catalogue, find).request
