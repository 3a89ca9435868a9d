"""Prompts files in text, JSON lines and CSV: all lines are parsed, and bad ones named by number."""

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

from t2i.cli.bulk.line_presets import PromptLinePresets
from t2i.cli.bulk.prompt_line import InvalidPromptLineError, PromptLine, parse_prompt_line
from t2i.cli.bulk.prompt_line_schema import PROMPT_LINE_KEYS
from t2i.cli.request.digests import compute_recording_digest
from t2i.cli.request.file_checks import (
    check_file_combinations,
    check_input_file,
    iter_request_files,
)
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.options import check_no_composed_prompts
from t2i.cli.request.prompt_loras import (
    DEFAULT_LORA_FOLDER,
    build_lora_finder,
    check_no_lora_tags,
    set_prompt_and_extract_loras,
)
from t2i.cli.request.request import Request
from t2i.denoiser.sampler_name import normalize_sampler_name
from t2i.denoiser.sampler_names import (
    SAMPLER_NAMES,
    is_sampler_or_scheduler_name,
)
from t2i.errors import ArgumentError, DataError, T2IError, suggest_choice
from t2i.safe_reading import (
    PROMPTS_FILE_KIND,
    iterate_numbered_byte_lines,
    open_untrusted_file,
    parse_json,
)
from t2i.terminal import format_short_json, plural

MAX_LINE_BYTES = 64 * 1024
"""Maximum bytes of a line, or of a record of a csv; reading ends at a longer one."""
MAX_PROMPTS = 1_000_000
"""Maximum number of prompts of a file."""
MAX_NAMED_LINES = 20
"""Maximum number of invalid lines in a message; the others are counted."""

NumberedLines = Iterator[tuple[int, str]]
"""Number, from 1, and text of each line of a file."""
NumberedRows = Iterator[tuple[int, Mapping[str, object] | InvalidPromptLineError]]
"""Number of its first line, and keys and values, of each record of a file; or its error."""


class UnreadableRestOfFileError(Exception):
    """Error with line number and reason, where the rest of a prompts file cannot be read."""


def read_prompts_file(
    path: Path,
    options: Request | None = None,
    lora_dir: Path = DEFAULT_LORA_FOLDER,
    presets: PromptLinePresets | None = None,
) -> list[PromptLine]:
    """Read the prompts of a .txt, .jsonl or .csv file, with the options of each line.

    options : where given, lines that make no valid request under them are errors too
    lora_dir : folder of the LoRAs that prompts name, used together with `options`
    presets : fills lines that name a preset, or those of a command that does

    Raises DataError naming the lines that cannot be used, ArgumentError for another suffix.
    """
    records = PARSERS.get(path.suffix.lower())
    if records is None:
        raise ArgumentError(f"Got --prompts {path}: expected a file in {', '.join(PARSERS)}.")
    with open_untrusted_file(path, PROMPTS_FILE_KIND) as file:
        lines, broken = _parse_records(
            records(_decode_lines(file)), strict=records is parse_json_lines
        )
    if options is not None:
        lines, unspoken = _fill_lines_and_list_broken_ones(lines, options, lora_dir, presets)
        broken = sorted(broken + unspoken + _check_lines(lines, options))
    if broken:
        raise DataError(_format_invalid_lines(path, broken))
    if not lines:
        raise DataError(f"{path} holds no prompt: write one on each line.")
    return lines


def _check_lines(lines: Sequence[PromptLine], options: Request) -> list[tuple[int, str]]:
    """Return number and reason of each line that makes no valid request under these options."""
    broken: list[tuple[int, str]] = []
    missing: dict[tuple[str, str], str | None] = {}
    check_recording = cache(lambda folder: compute_recording_digest(Path(folder)))
    for line in lines:
        try:
            request = line.to_request(options)
            check_file_combinations(request)
            if line.edit is not None:
                check_no_lora_tags('"source"', line.edit.chained_source_prompts, request)
                check_no_composed_prompts(request, [*line.edit.chained_source_prompts, line.prompt])
            if line.reading is not None:
                check_no_composed_prompts(request, [line.prompt])
            if line.recording is not None:
                check_no_lora_tags('"prompt"', [line.prompt], request)
                check_recording(line.recording.folder)
            _check_sampler(request.sampler)
        except (ArgumentError, DataError) as error:
            broken.append((line.number, str(error)))
            continue
        for name, file in iter_request_files(request):
            if (key := (name, file.path)) not in missing:
                missing[key] = _find_file_error(name, file)
            if (complaint := missing[key]) is not None:
                broken.append((line.number, complaint))
    return broken


def _find_file_error(name: str, file: InputFile) -> str | None:
    try:
        check_input_file(name, file)
    except T2IError as error:
        return str(error)
    return None


def _check_sampler(name: str | None) -> None:
    """Raise ArgumentError for an unknown name; whether the model can use it is checked later."""
    if name is not None and not is_sampler_or_scheduler_name(name):
        hint = suggest_choice(normalize_sampler_name(name), SAMPLER_NAMES)
        raise ArgumentError(f"Unknown sampler {name!r:.80}. {hint}")


def _parse_records(
    records: NumberedRows, *, strict: bool
) -> tuple[list[PromptLine], list[tuple[int, str]]]:
    lines: list[PromptLine] = []
    broken: list[tuple[int, str]] = []
    try:
        for number, record in records:
            try:
                lines.append(parse_prompt_line(number, record, strict=strict))
            except InvalidPromptLineError as error:
                broken.append((number, str(error)))
            if len(lines) + len(broken) > MAX_PROMPTS:
                raise UnreadableRestOfFileError(
                    number, f"There are more than {MAX_PROMPTS:,} prompts. Divide it."
                )
    except UnreadableRestOfFileError as error:
        broken.append(error.args)
    return lines, broken


def _format_invalid_lines(path: Path, broken: Sequence[tuple[int, str]]) -> str:
    """Return one message with each bad line as file:line."""
    if len(broken) == 1:
        return f"{path}:{broken[0][0]}: {broken[0][1]}"
    found = [f"{path}:{number}: {reason}" for number, reason in broken[:MAX_NAMED_LINES]]
    if len(broken) > MAX_NAMED_LINES:
        found.append(f"... and {len(broken) - MAX_NAMED_LINES:,} more.")
    return "\n".join([f"{plural(len(broken), 'line')} of {path} cannot be used:", *found])


def _decode_lines(file: BinaryIO) -> NumberedLines:
    """Yield number and text of each line; bytes that are not UTF-8 become surrogates."""
    for number, data in iterate_numbered_byte_lines(file, MAX_LINE_BYTES):
        if number == 1 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UnreadableRestOfFileError(1, "The file is UTF-16: save it as UTF-8.")
        if len(data) > MAX_LINE_BYTES:
            raise UnreadableRestOfFileError(
                number, f"The line is longer than {MAX_LINE_BYTES // 1024} KiB. Shorten its prompt."
            )
        yield number, data.decode("utf-8", "surrogateescape")


def parse_text_lines(lines: NumberedLines) -> NumberedRows:
    """Yield the line number and {"prompt": text} of each line of a prompts file in plain text;
    blank lines and # lines are skipped.
    """
    for number, text in lines:
        prompt = text.strip()
        if prompt and not prompt.startswith("#"):
            yield number, {"prompt": prompt}


def parse_json_lines(lines: NumberedLines) -> NumberedRows:
    """Yield the line number and the object, or the error, of each line of a prompts file in JSON
    Lines; blank lines are skipped.
    """
    for number, text in lines:
        if text.strip():
            yield number, _parse_json_record(text)


def _parse_json_record(text: str) -> Mapping[str, object] | InvalidPromptLineError:
    try:
        record = parse_json(text, pairs=_reject_repeated_keys)
    except InvalidPromptLineError as error:
        return error
    except ValueError as error:
        return InvalidPromptLineError(
            f'Not JSON: {error}. Expected an object such as {{"prompt": "a cat", "seed": 7}}.'
        )
    if not isinstance(record, dict):
        return InvalidPromptLineError(
            f'Got {format_short_json(record)}, expected an object such as {{"prompt": "a cat"}}.'
        )
    return record


def _reject_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record: dict[str, object] = {}
    for key, value in pairs:
        if key in record:
            raise InvalidPromptLineError(
                f"The key {format_short_json(key)} is given twice: keep one."
            )
        record[key] = value
    return record


def parse_csv_rows(lines: NumberedLines) -> NumberedRows:
    """Yield the line number and {column: cell}, or the error, of each row of a prompts file in CSV;
    empty cells are left out.
    """
    source = CsvReader(lines)
    rows = source.iter_numbered_rows()
    number, header = next(((n, row) for n, row in rows if row), (1, []))
    columns = [cell.strip() for cell in header]
    _check_header(number, columns)
    for number, row in rows:
        if row and len(row) != len(columns):
            yield (
                number,
                InvalidPromptLineError(
                    f"{len(row)} cells, but the header has {len(columns)}. "
                    "Put a cell that holds a comma into double quotes."
                ),
            )
        elif any(row):
            cells = zip(columns, row, strict=True)
            yield number, {column: cell for column, cell in cells if cell}


class CsvReader:
    """CSV reader of a prompts file: numbers rows by their first line and limits their size."""

    def __init__(self, lines: NumberedLines) -> None:
        self._lines = lines
        self._first_line = self._record_length = 0

    def __iter__(self) -> Iterator[str]:
        for number, text in self._lines:
            self._first_line = self._first_line or number
            self._record_length += len(text)
            if self._record_length > MAX_LINE_BYTES:
                raise UnreadableRestOfFileError(
                    self._first_line,
                    f"The record is longer than {MAX_LINE_BYTES // 1024} KiB. "
                    "Is a quote left open?",
                )
            yield text

    def iter_numbered_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the first line, and the cells, of each row of a CSV file.

        Raises UnreadableRestOfFileError.
        """
        try:
            for row in csv.reader(self, strict=True):
                yield self._first_line, row
                self._first_line = self._record_length = 0
        except csv.Error as error:
            raise UnreadableRestOfFileError(
                self._first_line or 1, f"Not CSV: {error}. Check the double quotes of this record."
            ) from None


def _check_header(number: int, columns: Sequence[str]) -> None:
    expected = "Expected a first line such as: prompt,seed,size"
    for column in columns:
        if column not in PROMPT_LINE_KEYS:
            raise UnreadableRestOfFileError(
                number,
                f"Unknown column {format_short_json(column)}. "
                f"{suggest_choice(column, PROMPT_LINE_KEYS)} {expected}",
            )
        if columns.count(column) > 1:
            raise UnreadableRestOfFileError(
                number, f"The column {format_short_json(column)} is given twice: keep one."
            )
    if "prompt" not in columns:
        raise UnreadableRestOfFileError(number, f"There is no column 'prompt'. {expected}")


PARSERS: dict[str, Callable[[NumberedLines], NumberedRows]] = {
    ".txt": parse_text_lines,
    ".jsonl": parse_json_lines,
    ".csv": parse_csv_rows,
}
"""Suffix of a prompts file -> parser of its lines."""


def _fill_lines_and_list_broken_ones(
    lines: Sequence[PromptLine], options: Request, folder: Path, presets: PromptLinePresets | None
) -> tuple[list[PromptLine], list[tuple[int, str]]]:
    """Fill the lines of a prompts file from their presets, and turn the LoRA tags in their prompts
    into LoRAs of the lines.

    Returns the lines, and number and reason of those that cannot be used.
    """
    valid: list[PromptLine] = []
    broken: list[tuple[int, str]] = []
    for line in lines:
        if line.recording is not None:  # which has its own: tags are refused later
            valid.append(line)
            continue
        try:
            line = line if presets is None else presets.fill(line)
            request = set_prompt_and_extract_loras(
                line.overrides.apply_to(options), line.prompt, build_lora_finder(folder)
            )
        except T2IError as error:
            broken.append((line.number, str(error)))
            continue
        if request.prompt != line.prompt:
            overrides = replace(line.overrides, loras=request.loras)
            line = replace(line, prompt=request.prompt, overrides=overrides)
        valid.append(line)
    return valid, broken
