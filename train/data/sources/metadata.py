"""The table beside a folder's pictures: metadata.jsonl or metadata.csv, as imagefolder has it."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from t2i.errors import DataError, nearest
from t2i.safe_reading import TABLE, decode_utf8, iterate_lines, open_untrusted, parse_json
from train.data.sources.listed import as_captions

TABLES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "captions")
MAX_LINE = 1024 * 1024
"""Bytes of one row, which may hold much beside its caption."""

Rows = dict[Path, tuple[str, ...]]
"""Captions by picture; a picture named in several rows has those of all."""


def rows_of(table: Path, caption_column: str | None) -> Rows:
    """Raises DataError that names file and line."""
    rows: Rows = {}
    for line, row in lines_of(table):
        place = f"{table}, line {line}"
        name = row.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            raise DataError(f"{place}: no {FILE_COLUMN!r}. {nearest(FILE_COLUMN, row)}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{place}: {name!r} leads out of the folder; name what lies within.")
        try:
            captions = as_captions(row.get(column_of(row, caption_column, place)))
        except ValueError as error:
            raise DataError(f"{place}: {error}.") from None
        path = table.parent / name
        rows[path] = rows.get(path, ()) + captions
    return rows


def column_of(row: dict[str, object], wanted: str | None, place: str) -> str:
    """The name of the column that holds the captions."""
    if wanted is not None:
        if wanted not in row:
            raise DataError(f"{place}: no column {wanted!r}. {nearest(wanted, row)}")
        return wanted
    found = [column for column in CAPTION_COLUMNS if column in row]
    if len(found) > 1:
        raise DataError(
            f"{place}: which are the captions, {' or '.join(map(repr, found))}? Say it with "
            "caption_column."
        )
    if not found and len(row) > 1:
        raise DataError(
            f"{place}: none of the columns is called {', '.join(map(repr, CAPTION_COLUMNS))}. Name "
            f"the one with the captions as caption_column. {nearest('text', row)}"
        )
    return found[0] if found else CAPTION_COLUMNS[0]


def lines_of(table: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Each row with its line's number, counted from 1."""
    with open_untrusted(table, TABLE) as file:
        yield from (csv_rows if table.suffix == ".csv" else json_rows)(table, file)


def json_rows(table: Path, file: BinaryIO) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in texts_of(table, file):
        if not line.strip():
            continue
        try:
            row = parse_json(line, lenient=True)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}: expected an object, got {line[:60]}.")
        yield number, row


def csv_rows(table: Path, file: BinaryIO) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader((text for _, text in texts_of(table, file)), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {str(key): value for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}.") from error


def texts_of(table: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Number and text of each line, its end included."""
    for number, data in iterate_lines(file, MAX_LINE):
        if len(data) > MAX_LINE:
            raise DataError(f"{table}, line {number}: it is longer than {MAX_LINE:,} bytes.")
        try:
            yield number, decode_utf8(data)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: {error}.") from error


def table_in(folder: Path, names: Sequence[str]) -> Path | None:
    """The table among a folder's files."""
    found = [name for name in TABLES if name in names]
    if len(found) > 1:
        raise DataError(f"{folder} holds both {' and '.join(found)}: keep one of them.")
    return folder / found[0] if found else None
