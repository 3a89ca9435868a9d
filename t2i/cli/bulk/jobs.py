"""The jobs of a prompts file: one image each, with its index, seed and file name."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i.cli.file_names import slugify
from t2i.cli.request.edit_options import PromptLineEdit
from t2i.cli.request.prompt_line import PromptLine
from t2i.cli.request.request import MAX_SEED, Request
from t2i.errors import ArgumentError, DataError


@dataclass(frozen=True, slots=True)
class Job:
    """Job of a bulk run: one image to generate, with its seed, file name and request.

    index : among all images of the file, from 0
    line_number : of its line in the prompts file, from 1
    file_name : of its image, in the folder of the images
    edit : makes the request's prompt the target of an edit; None for a plain image
    """

    index: int
    line_number: int
    seed: int
    file_name: str
    request: Request
    edit: PromptLineEdit | None = None


def build_jobs(
    path: Path, lines: Sequence[PromptLine], options: Request, num: int, seed: int
) -> list[Job]:
    """Build one job per image from the lines of a prompts file, in their order.

    path : of the file, for messages
    options : values for the fields that a line leaves open
    num : images of a line that does not give a number
    seed : of the first image; a line without a seed has this one plus the number of images before
        it, so that neither a restart nor the number of processes changes it
    Raises ArgumentError for a seed out of range, DataError for two images of one name.
    """
    jobs: list[Job] = []
    digits = len(str(lines[-1].number))
    for line in lines:
        request = line.to_request(options)
        first = seed + len(jobs) if line.seed is None else line.seed
        count = line.num or num
        if first + count - 1 > MAX_SEED:
            raise ArgumentError(f"{path}:{line.number}: its seed would be above {MAX_SEED}.")
        for index in range(count):
            file = _name_image_file(line, index, count, first + index, digits)
            jobs.append(Job(len(jobs), line.number, first + index, file, request, line.edit))
    _check_unique_names(path, jobs)
    return jobs


def _name_image_file(line: PromptLine, index: int, count: int, seed: int, digits: int) -> str:
    """Return the line's own name, numbered for several images; else number, words and seed."""
    if line.name is None:
        return f"{line.number:0{digits}}-{slugify(line.prompt)}-{seed}.png"
    if count == 1:
        return line.name
    name = Path(line.name)
    return f"{name.stem}-{index + 1}{name.suffix}"


def _check_unique_names(path: Path, jobs: Iterable[Job]) -> None:
    """Raise DataError for two images of one name, also on a file system that ignores case."""
    lines: dict[str, int] = {}
    for job in jobs:
        plain = unicodedata.normalize("NFC", job.file_name).casefold()
        other = lines.setdefault(plain, job.line_number)
        if other != job.line_number:
            raise DataError(
                f"{path}:{job.line_number}: its picture would be {job.file_name!r}, as that of "
                f'line {other}. Give another "name".'
            )
