"""The jobs of a prompts file: one result each, with its index, seed and file name."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i.cli.bulk.prompt_line import PromptLine
from t2i.cli.inspected_words import (
    ANIMATION_ENDING,
    SEGMENT_ENDING,
    InspectOrInvertTask,
    Retry,
)
from t2i.cli.output_files.file_names import slugify
from t2i.cli.request.edit_options import PromptLineEdit, PromptLineRecordedPhoto
from t2i.cli.request.request import MAX_SEED, Request
from t2i.errors import ArgumentError, DataError

MAPS_SUFFIX = ".safetensors"
"""Suffix of the file of heat maps beside their strip."""


@dataclass(frozen=True, slots=True)
class Job:
    """Job of a bulk run: one image to generate, with its seed, file name and request.

    index : among all images of the file, from 0
    line_number : of its line in the prompts file, from 1
    file_name : of its image, in the folder of the images; of the folder of a recorded photo
    edit : makes the request's prompt the target of an edit; None for a plain image
    reading : makes the result heat maps or a recorded photo; None for an image
    budget_bytes : most bytes of the recording of its photo; None for the default
    recording : that is edited or looked into, instead of a photo
    record : name of the folder in which the target is recorded, in the folder of the images
    retry : draws its image again while a thing that the prompt names is missing
    retry_stride : distance of the seeds of its retries, so that images do not share them
    """

    index: int
    line_number: int
    seed: int
    file_name: str
    request: Request
    edit: PromptLineEdit | None = None
    reading: InspectOrInvertTask | None = None
    budget_bytes: int | None = None
    recording: PromptLineRecordedPhoto | None = None
    record: str | None = None
    retry: Retry | None = None
    retry_stride: int = 1

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the files that a job of a bulk run saves: its image; for heat maps, the strip
        image and the .safetensors file of the maps.
        """
        if self.reading is None or self.reading.task != "inspect":
            return (self.file_name,)
        endings = [MAPS_SUFFIX]
        endings += [SEGMENT_ENDING] * self.reading.segment
        endings += [ANIMATION_ENDING] * self.reading.animate
        stem = Path(self.file_name).stem
        return (self.file_name, *(f"{stem}{ending}" for ending in endings))

    @property
    def file_and_folder_names(self) -> tuple[str, ...]:
        """Names of everything that a job of a bulk run writes into the output folder: its files
        and, if its edit is recorded, the folder of the recording.
        """
        return self.file_names if self.record is None else (*self.file_names, self.record)


def build_jobs(
    path: Path,
    lines: Sequence[PromptLine],
    options: Request,
    num: int,
    seed: int,
    retry: Retry | None = None,
) -> list[Job]:
    """Build one job per image from the lines of a prompts file, in their order.

    path : of the file, for messages
    options : values for the fields that a line leaves open
    num : images of a line that does not give a number
    seed : of the first image; a line without a seed has this one plus the number of images before
        it, so that neither a restart nor the number of processes changes it
    retry : of lines that draw an image, neither edit nor read one, and have no retry of their own
    Raises ArgumentError for a seed out of range, DataError for two images of one name.
    """
    jobs: list[Job] = []
    digits = len(str(lines[-1].number))
    total = sum(line.num or num for line in lines)
    for line in lines:
        request = line.to_request(options)
        first = seed + len(jobs) if line.seed is None else line.seed
        count = line.num or num
        if first + count - 1 > MAX_SEED:
            raise ArgumentError(f"{path}:{line.number}: its seed would be above {MAX_SEED}.")
        for index in range(count):
            number = first + index
            name = _name_result(line, index, count, number, digits)
            record = line.record if count == 1 else line.record and f"{line.record}-{index + 1}"
            what = (line.edit, line.reading, line.budget_bytes, line.recording, record)
            draws = line.edit is None and line.reading is None and line.recording is None
            stride = total if line.seed is None else count
            own_retry = line.retry or (retry if draws else None)
            jobs.append(
                Job(
                    len(jobs),
                    line.number,
                    number,
                    name,
                    request,
                    *what,
                    own_retry,
                    stride,
                )
            )
    _check_unique_names(path, jobs)
    return jobs


def _name_result(line: PromptLine, index: int, count: int, seed: int, digits: int) -> str:
    """Return the line's own name, numbered for several results; else number, words and seed."""
    records = line.reading is not None and line.reading.task == "invert"
    suffix = "" if records else ".png"
    if line.name is None:
        words = line.prompt or (Path(line.recording.folder).name if line.recording else "")
        return f"{line.number:0{digits}}-{slugify(words)}-{seed}{suffix}"
    if count == 1:
        return line.name
    name = Path(line.name)
    return f"{line.name}-{index + 1}" if records else f"{name.stem}-{index + 1}{name.suffix}"


def _check_unique_names(path: Path, jobs: Iterable[Job]) -> None:
    """Raise DataError for two images of one name, also on a file system that ignores case."""
    lines: dict[str, int] = {}
    for job in jobs:
        folded = [
            unicodedata.normalize("NFC", name).casefold() for name in job.file_and_folder_names
        ]
        for name, key in zip(job.file_and_folder_names, folded, strict=True):
            other = lines.setdefault(key, job.line_number)
            if other != job.line_number or folded.count(key) > 1:
                raise DataError(
                    f"{path}:{job.line_number}: its picture would be {name!r}, as that of "
                    f'line {other}. Give another "name".'
                )
