"""Routes of pictures that clients bring: uploads for jobs, and the metadata that they carry."""

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, UploadFile

from t2i.cli.metadata.reading import (
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.errors import DataError
from t2i.server.api.recorded_requests import build_reproduction_job, find_model_digest
from t2i.server.api.schemas import MetadataAnswer, RequiredPictureAnswer, UploadAnswer
from t2i.server.api.service_access import Owner, Service
from t2i.server.jobs.uploads import sanitise_name
from t2i.terminal import escape_controls

router = APIRouter(prefix="/api/v1", tags=["pictures"])
Picture = Annotated[UploadFile, File(description="A PNG, JPEG or WebP picture.")]


@router.post("/uploads", status_code=201)
def upload_picture(file: Picture, service: Service, owner: Owner) -> UploadAnswer:
    """Keep a picture for the jobs that name it; what no job takes is removed after a day."""
    data = file.file.read()
    upload = service.uploads.add(data, file.filename or "", owner)
    return UploadAnswer(
        id=upload.id,
        name=upload.name,
        width=upload.width,
        height=upload.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


@router.post("/metadata")
def read_picture_metadata(file: Picture, service: Service) -> MetadataAnswer:
    """Answer with the request that the metadata of a picture say: ours, A1111's, ComfyUI's or
    InvokeAI's.
    """
    name = sanitise_name(file.filename or "") or "picture.png"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{Path(name).suffix[:10]}"
        path.write_bytes(file.file.read())
        try:
            metadata = read_metadata(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from None
    request, seed = build_request_from_metadata(metadata)
    job = build_reproduction_job(metadata, request, service.catalogue)
    if seed is not None:
        job.values["seed"] = seed
    digest = None
    if metadata.request is not None:
        digest = find_model_digest(request, service.catalogue)
    return MetadataAnswer(
        tool=metadata.tool,
        kind=job.kind,
        request=job.values,
        pictures=[
            RequiredPictureAnswer(
                field=name, name=sanitise_name(picture.path), sha256=picture.sha256
            )
            for name, picture in job.pictures
        ],
        not_restored=[escape_controls(line)[:300] for line in job.not_restored[:50]],
        differences=list_reproduction_differences(metadata, digest)[:50],
        text=metadata.raw,
    )
