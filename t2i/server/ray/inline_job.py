"""A job that travels between machines: its pictures and the files of its result are in it."""

import base64
import binascii
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from t2i.errors import ArgumentError, DataError
from t2i.pictures import opening_picture_as_stored
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job import JobKind, JobResult, ResultFile, create_identifier
from t2i.server.jobs.job_request import (
    EditRequest,
    GenerateRequest,
    InspectRequest,
    JobRequest,
    parse_job_request,
)
from t2i.server.jobs.request_building import (
    ResolvedJobRequest,
    check_pixel_steps_limit,
    choose_job_seeds,
    resolve_job_request,
)
from t2i.server.jobs.worker_job import WorkerJobInputs

DATA_PREFIX = r"^data:image/(png|jpeg|webp);base64,"
SUFFIX_BY_TYPE = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
PICTURE_FIELDS = ("image", "mask")
InlinePicture = Annotated[
    str, Field(pattern=DATA_PREFIX, examples=["data:image/png;base64,iVBORw0KGgo="])
]
"""A picture in the request itself, as a data URL."""


class InlineGenerateRequest(GenerateRequest):
    """Request of a `generate` run with its pictures in it as base64, instead of identifiers of
    uploads.
    """

    image: InlinePicture | None = None
    mask: InlinePicture | None = None


class InlineEditRequest(EditRequest):
    """Request of an `edit` run with its pictures in it as base64, instead of identifiers of
    uploads.
    """

    image: InlinePicture | None = None
    mask: InlinePicture | None = None


class InlineInspectRequest(InspectRequest):
    """Request of an `inspect` run with its photo in it as base64, instead of the identifier of an
    upload.
    """

    image: InlinePicture | None = None


class GenerateRun(BaseModel):
    """Request body of a run that generates images: kind "generate", and its request."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["generate"]
    request: InlineGenerateRequest


class EditRun(BaseModel):
    """Request body of a run that edits a prompt or a photo by its words: kind "edit", and its
    request.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["edit"]
    request: InlineEditRequest


class InspectRun(BaseModel):
    """Request body of a run that reads heat maps of words: kind "inspect", and its request."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["inspect"]
    request: InlineInspectRequest


NewRun = Annotated[GenerateRun | EditRun | InspectRun, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class InlineJob:
    """Job with everything that a worker on another machine needs: its request, and the bytes of its
    pictures.

    request : JSON data that t2i.server.jobs.job_request reads; pictures by an identifier
    pictures : identifier -> name and bytes of a picture
    """

    kind: JobKind
    request: Mapping[str, Any]
    pictures: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class InlineResult:
    """Result of a job with the bytes of its files, in the order of `result.files`."""

    result: JobResult
    contents: tuple[bytes, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, its files in base64."""
        described = self.result.to_dict()
        for file, content in zip(described["files"], self.contents, strict=True):
            file["base64"] = base64.b64encode(content).decode()
        return described


def create_inline_job(new: NewRun) -> InlineJob:
    """Build the job for a worker on another machine from a request body: its base64 pictures are
    decoded and replaced by identifiers.

    Raises ArgumentError for a recorded source, DataError for base64 that is none.
    """
    request: GenerateRequest | EditRequest | InspectRequest = new.request
    if getattr(request, "source", None) is not None:
        raise ArgumentError(
            "Got source: a recording lies on one machine, and Ray's workers keep none. Give "
            "source_prompt, or an image; or use t2i serve."
        )
    values = request.model_dump(mode="json", exclude_defaults=True)
    pictures: dict[str, tuple[str, bytes]] = {}
    for name in PICTURE_FIELDS:
        if name in values:
            identifier = create_identifier()
            pictures[identifier] = _decode_picture(name, values[name])
            values[name] = identifier
    return InlineJob(new.kind, values, pictures)


def _decode_picture(name: str, url: str) -> tuple[str, bytes]:
    header, _, text = url.partition(",")
    suffix = SUFFIX_BY_TYPE[header.removeprefix("data:image/").partition(";")[0]]
    try:
        return f"{name}{suffix}", base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DataError(f"The base64 of {name} cannot be decoded: {error}.") from error


def check_inline_job_and_choose_seeds(
    job: InlineJob, catalogue: Catalogue, max_pixels_x_steps: int
) -> tuple[int, ...]:
    """Check a job for a worker on another machine as `t2i serve` checks a new job; return the seeds
    of its images.

    Raises T2IError as the command line does for a request that cannot be drawn.
    """
    with _building(job, catalogue) as (body, built, _folder, names):
        for path, name in names.items():
            try:
                with opening_picture_as_stored(Path(path)):
                    pass
            except DataError as error:
                raise DataError(str(error).replace(path, name)) from None
        seeds = choose_job_seeds(body, built)
        check_pixel_steps_limit(built, len(seeds), catalogue, max_pixels_x_steps)
        return seeds


def run_inline_job(
    job: InlineJob, catalogue: Catalogue, run: Callable[[WorkerJobInputs], JobResult]
) -> InlineResult:
    """Run a job in a folder that is removed afterwards; return its result with its files."""
    with _building(job, catalogue) as (body, built, folder, names):
        place = folder / "result"
        place.mkdir()
        result = run(
            WorkerJobInputs(
                id=create_identifier(),
                kind=job.kind,
                body=body,
                built=built,
                seeds=job.seeds,
                folder=place,
                picture_names=names,
            )
        )
        return InlineResult(result, tuple(_read(place, file) for file in result.files))


@contextmanager
def _building(
    job: InlineJob, catalogue: Catalogue
) -> Iterator[tuple[JobRequest, ResolvedJobRequest, Path, dict[str, str]]]:
    """Yield the request of a job, the command line's, a folder with its pictures, and their paths
    with their names.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-") as place:
        folder = Path(place)
        names: dict[str, str] = {}
        paths: dict[str, Path] = {}
        for identifier, (name, content) in job.pictures.items():
            paths[identifier] = folder / name
            names[str(paths[identifier])] = name
            paths[identifier].write_bytes(content)
        body = parse_job_request(job.kind, job.request)
        yield body, resolve_job_request(body, catalogue, paths.__getitem__), folder, names


def _read(folder: Path, file: ResultFile) -> bytes:
    return (folder / file.name).read_bytes()
