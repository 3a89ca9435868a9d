"""Images of a finished job in the format that a body of OpenAI's API asks for."""

import base64
import io
from pathlib import Path
from threading import BoundedSemaphore

from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.pictures import (
    EXIF_TEXT_FORMATS,
    FORMAT_BY_SUFFIX,
    build_metadata_exif_block,
    open_picture,
)
from t2i.safe_reading import PICTURE_KIND, read_bytes
from t2i.server.compat.openai.image_schemas import (
    GeneratedImage,
    ImageBody,
    ImagesAnswer,
    OutputFormat,
)
from t2i.server.jobs.job import Job, ResultFile
from t2i.server.jobs.job_service import JobService

BEST_QUALITY = 100


def list_result_images(job: Job) -> list[ResultFile]:
    """Return the generated images among the files of a job's result."""
    files = () if job.result is None else job.result.files
    return [file for file in files if file.seed is not None]


def build_images_answer(
    service: JobService, job: Job, body: ImageBody, output_format: OutputFormat, address: str | None
) -> ImagesAnswer:
    """Return the answer of OpenAI's API with the images of a finished job.

    address : of the server, for answers with addresses in place of base64
    """
    files = list_result_images(job)
    if address is None:
        data = [
            GeneratedImage(
                b64_json=encode_result_image_base64(service, job, file, body, output_format)
            )
            for file in files
        ]
    else:
        data = [
            GeneratedImage(url=f"{address}api/v1/jobs/{job.id}/files/{file.name}") for file in files
        ]
    return ImagesAnswer(
        created=int(job.created),
        data=data,
        output_format=output_format,
        size=describe_size(files[0]),
        safety_identifier=body.safety_identifier or body.user,
        job_id=job.id,
        seeds=[file.seed for file in files if file.seed is not None],
    )


def encode_result_image_base64(
    service: JobService, job: Job, file: ResultFile, body: ImageBody, output_format: OutputFormat
) -> str:
    """Return a generated image of a job as base64 in an output format, with its metadata."""
    path = service.find_result_file(job.id, job.owner, file.name)
    data = (
        read_bytes(path, PICTURE_KIND)
        if output_format == "png"
        else _convert(path, body, output_format, service.uploads.decoding)
    )
    return base64.b64encode(data).decode("ascii")


def describe_size(file: ResultFile) -> str:
    """Return the size of an image as "512x384"."""
    return f"{file.width}x{file.height}"


def _convert(
    path: Path, body: ImageBody, output_format: OutputFormat, decoding: BoundedSemaphore
) -> bytes:
    """Return the bytes of a PNG file as JPEG or WebP."""
    form = FORMAT_BY_SUFFIX[f".{output_format}"]
    found = read_embedded_texts(path).texts
    texts = {name: text for name, text in found.items() if name in EXIF_TEXT_FORMATS}
    quality = BEST_QUALITY if body.output_compression is None else body.output_compression
    stream = io.BytesIO()
    with decoding:
        open_picture(path).convert("RGB").save(
            stream, form, quality=quality, exif=build_metadata_exif_block(texts, form, path.name)
        )
    return stream.getvalue()
