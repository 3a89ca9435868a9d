"""A file of prompts: what each line asks for, and every line that cannot be used, by number."""

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from t2i.cli.request.file_checks import check_together, files_of, place
from t2i.cli.request.input_files import File
from t2i.cli.request.prompt_line import KEYS, Broken, Line, line_of, shown
from t2i.cli.request.prompt_loras import FOLDER, speak_lines
from t2i.cli.request.request import Request
from t2i.cli.request.sampler_names import NAMES, is_known, plain_words
from t2i.errors import ArgumentError, DataError, T2IError, nearest
from t2i.safe_reading import PROMPTS, lines_in, opened, parse_json
from t2i.terminal import several

MAX_LINE = 64 * 1024
"""Bytes of one line, or of one record of a csv; a longer one ends the reading."""
MAX_PROMPTS = 1_000_000
SHOWN = 20
"""Broken lines that are named; of the rest only the number."""

Lines = Iterator[tuple[int, str]]
Records = Iterator[tuple[int, Mapping[str, object] | Broken]]


class Unreadable(Exception):
    """Why the file cannot be read on from a line: (line, reason)."""


def read_prompts(path: Path, options: Request | None = None, lora_dir: Path = FOLDER) -> list[Line]:
    """What the lines of a .txt, .jsonl or .csv ask for. Raises DataError naming the broken ones,
    with `options` also those that make no sound request under them.

    lora_dir : where the LoRAs are that prompts name, once there are options
    """
    records = READERS.get(path.suffix.lower())
    if records is None:
        raise ArgumentError(f"Got --prompts {path}: expected a file in {', '.join(READERS)}.")
    with opened(path, PROMPTS) as file:
        lines, broken = read(records(physical_lines(file)), strict=records is json_records)
    if options is not None:
        lines, unspoken = speak_lines(lines, options, lora_dir)
        broken = sorted(broken + unspoken + check_lines(lines, options))
    if broken:
        raise DataError(complaint(path, broken))
    if not lines:
        raise DataError(f"{path} holds no prompt: write one on each line.")
    return lines


def check_lines(lines: Sequence[Line], options: Request) -> list[tuple[int, str]]:
    """The lines that are no sound requests under these options, and why."""
    broken: list[tuple[int, str]] = []
    missing: dict[tuple[str, str], str | None] = {}
    for line in lines:
        try:
            request = replace(line.wishes.over(options), prompt=line.prompt)
            check_together(request)
            check_sampler(request.sampler)
        except ArgumentError as error:
            broken.append((line.number, str(error)))
            continue
        for name, file in files_of(request):
            if (key := (name, file.path)) not in missing:
                missing[key] = complaint_of(name, file)
            if (complaint := missing[key]) is not None:
                broken.append((line.number, complaint))
    return broken


def complaint_of(name: str, file: File) -> str | None:
    try:
        place(name, file)
    except T2IError as error:
        return str(error)
    return None


def check_sampler(name: str | None) -> None:
    """By its name alone: whether the model can use it is seen when that is known."""
    if name is not None and not is_known(name):
        raise ArgumentError(f"Unknown sampler {name!r:.80}. {nearest(plain_words(name), NAMES)}")


def read(records: Records, *, strict: bool) -> tuple[list[Line], list[tuple[int, str]]]:
    lines: list[Line] = []
    broken: list[tuple[int, str]] = []
    try:
        for number, record in records:
            try:
                lines.append(line_of(number, record, strict=strict))
            except Broken as error:
                broken.append((number, str(error)))
            if len(lines) + len(broken) > MAX_PROMPTS:
                raise Unreadable(number, f"There are more than {MAX_PROMPTS:,} prompts. Divide it.")
    except Unreadable as error:
        broken.append(error.args)
    return lines, broken


def complaint(path: Path, broken: Sequence[tuple[int, str]]) -> str:
    """Each broken line as file:line, under what is wrong with the file."""
    if len(broken) == 1:
        return f"{path}:{broken[0][0]}: {broken[0][1]}"
    found = [f"{path}:{number}: {reason}" for number, reason in broken[:SHOWN]]
    if len(broken) > SHOWN:
        found.append(f"... and {len(broken) - SHOWN:,} more.")
    return "\n".join([f"{several(len(broken), 'line')} of {path} cannot be used:", *found])


def physical_lines(file: BinaryIO) -> Lines:
    """Number and text of each line; what is no UTF-8 becomes surrogates, refused with its text."""
    for number, data in lines_in(file, MAX_LINE):
        if number == 1 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise Unreadable(1, "The file is UTF-16: save it as UTF-8.")
        if len(data) > MAX_LINE:
            raise Unreadable(
                number, f"The line is longer than {MAX_LINE // 1024} KiB. Shorten its prompt."
            )
        yield number, data.decode("utf-8", "surrogateescape")


def text_records(lines: Lines) -> Records:
    """A prompt on each line; blank lines and those that begin with # are skipped."""
    for number, text in lines:
        prompt = text.strip()
        if prompt and not prompt.startswith("#"):
            yield number, {"prompt": prompt}


def json_records(lines: Lines) -> Records:
    """An object on each line; blank lines are skipped."""
    for number, text in lines:
        if text.strip():
            yield number, json_record(text)


def json_record(text: str) -> Mapping[str, object] | Broken:
    try:
        record = parse_json(text, pairs=without_repeats)
    except Broken as error:
        return error
    except ValueError as error:
        return Broken(
            f'Not JSON: {error}. Expected an object such as {{"prompt": "a cat", "seed": 7}}.'
        )
    if not isinstance(record, dict):
        return Broken(f'Got {shown(record)}, expected an object such as {{"prompt": "a cat"}}.')
    return record


def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record: dict[str, object] = {}
    for key, value in pairs:
        if key in record:
            raise Broken(f"The key {shown(key)} stands twice: keep one.")
        record[key] = value
    return record


def csv_records(lines: Lines) -> Records:
    """Rows under a header; a quoted cell may hold line breaks, an empty one says nothing."""
    source = CsvSource(lines)
    rows = source.rows()
    number, header = next(((n, row) for n, row in rows if row), (1, []))
    columns = [cell.strip() for cell in header]
    check_header(number, columns)
    for number, row in rows:
        if row and len(row) != len(columns):
            yield (
                number,
                Broken(
                    f"{len(row)} cells, but the header has {len(columns)}. "
                    "Put a cell that holds a comma into double quotes."
                ),
            )
        elif any(row):
            cells = zip(columns, row, strict=True)
            yield number, {column: cell for column, cell in cells if cell}


class CsvSource:
    """Lines for csv.reader, with the place and size of the record that it is reading."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.first = self.size = 0

    def __iter__(self) -> Iterator[str]:
        for number, text in self.lines:
            self.first = self.first or number
            self.size += len(text)
            if self.size > MAX_LINE:
                raise Unreadable(
                    self.first,
                    f"The record is longer than {MAX_LINE // 1024} KiB. Is a quote left open?",
                )
            yield text

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        try:
            for row in csv.reader(self, strict=True):
                yield self.first, row
                self.first = self.size = 0
        except csv.Error as error:
            raise Unreadable(
                self.first or 1, f"Not CSV: {error}. Check the double quotes of this record."
            ) from None


def check_header(number: int, columns: Sequence[str]) -> None:
    expected = "Expected a first line such as: prompt,seed,size"
    for column in columns:
        if column not in KEYS:
            raise Unreadable(
                number, f"Unknown column {shown(column)}. {nearest(column, KEYS)} {expected}"
            )
        if columns.count(column) > 1:
            raise Unreadable(number, f"The column {shown(column)} stands twice: keep one.")
    if "prompt" not in columns:
        raise Unreadable(number, f"There is no column 'prompt'. {expected}")


READERS: dict[str, Callable[[Lines], Records]] = {
    ".txt": text_records,
    ".jsonl": json_records,
    ".csv": csv_records,
}
