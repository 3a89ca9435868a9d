"""Captions from metadata.jsonl or metadata.csv beside the pictures, in imagefolder's format."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from t2i.errors import DataError, suggest_choice
from t2i.safe_reading import (
    CAPTION_TABLE_KIND,
    UntrustedFileKind,
    decode_utf8,
    iterate_numbered_byte_lines,
    open_untrusted_file,
    parse_json,
)
from train.data.sources.listing import FileBytes, parse_caption_cell

TABLE_FILE_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "captions")
MAX_ROW_BYTES = 1024 * 1024
"""Greatest number of bytes of one row, which may have many columns."""

CaptionsByPicture = dict[Path, tuple[str, ...]]
"""Captions by picture; a picture in several rows has the captions of all."""


def read_captions_from_csv_or_jsonl(
    table: Path, caption_column: str | None, hint_column: str | None = None
) -> CaptionsByPicture:
    """Read the captions in a metadata table, a CSV or JSONL file, and return them by picture.
    Raises DataError with file and line.

    hint_column : column that holds no captions, but paths of hints
    """
    rows: CaptionsByPicture = {}
    for line, row in iterate_csv_or_jsonl_rows(table):
        place = f"{table}, line {line}"
        name = row.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            raise DataError(f"{place}: no {FILE_COLUMN!r}. {suggest_choice(FILE_COLUMN, row)}")
        check_path_stays_in_folder(name, place)
        row.pop(hint_column or "", None)
        try:
            captions = parse_caption_cell(row.get(find_caption_column(row, caption_column, place)))
        except ValueError as error:
            raise DataError(f"{place}: {error}.") from None
        path = table.parent / name
        rows[path] = rows.get(path, ()) + captions
    return rows


def read_hint_files_by_picture(table: Path, hint_column: str) -> dict[Path, FileBytes]:
    """Read the hint column of a metadata table (CSV or JSONL) and return each picture's hint file,
    by the picture's path. Raises DataError with file and line, also if there is no such column.
    """
    hints: dict[Path, FileBytes] = {}
    columns: dict[str, object] = {}
    for line, row in iterate_csv_or_jsonl_rows(table):
        columns |= row
        hint = find_hint_of_row(row, hint_column, table, f"{table}, line {line}")
        if hint is not None:
            hints[table.parent / str(row.get(FILE_COLUMN))] = hint
    if hint_column not in columns:
        raise DataError(
            f"{table}: no column {hint_column!r}, which hint_column names. "
            f"{suggest_choice(hint_column, columns)}"
        )
    return hints


def find_hint_of_row(
    row: dict[str, object], hint_column: str | None, table: Path, place: str
) -> FileBytes | None:
    """Return the source of the hint that a table's row names; None without one.

    Raises DataError for what is no path within the table's folder.
    """
    name = None if hint_column is None else row.get(hint_column)
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise DataError(f"{place}: {hint_column!r} is {name!r:.80}; expected the path of a hint.")
    check_path_stays_in_folder(name, place)
    return FileBytes(table.parent / name)


def check_path_stays_in_folder(name: str, place: str) -> None:
    """Raise DataError for a path in a table that leads out of the table's folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{place}: {name!r} leads out of the folder; name what lies within.")


def find_caption_column(row: dict[str, object], wanted: str | None, place: str) -> str:
    """Return the name of the column of a metadata table that holds the captions. Raises DataError
    if it is missing or ambiguous.
    """
    if wanted is not None:
        if wanted not in row:
            raise DataError(f"{place}: no column {wanted!r}. {suggest_choice(wanted, row)}")
        return wanted
    found = [column for column in CAPTION_COLUMNS if column in row]
    if len(found) > 1:
        raise DataError(
            f"{place}: which are the captions, {' or '.join(map(repr, found))}? Set caption_column."
        )
    if not found and len(row) > 1:
        raise DataError(
            f"{place}: none of the columns is called {', '.join(map(repr, CAPTION_COLUMNS))}. Name "
            f"the one with the captions as caption_column. {suggest_choice('text', row)}"
        )
    return found[0] if found else CAPTION_COLUMNS[0]


def iterate_csv_or_jsonl_rows(
    table: Path, kind: UntrustedFileKind = CAPTION_TABLE_KIND
) -> Iterator[tuple[int, dict[str, object]]]:
    """Iterate over the rows of a table, CSV or JSONL, with their line numbers, counted from 1.

    Raises DataError with file and line for what cannot be read.
    """
    with open_untrusted_file(table, kind) as file:
        yield from (_csv_rows if table.suffix == ".csv" else _json_rows)(table, file)


def _json_rows(table: Path, file: BinaryIO) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in _text_lines(table, file):
        if not line.strip():
            continue
        try:
            row = parse_json(line, lenient=True)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}: expected an object, got {line[:60]}.")
        yield number, row


def _csv_rows(table: Path, file: BinaryIO) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader((text for _, text in _text_lines(table, file)), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {str(key): value for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}.") from error


def _text_lines(table: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, the line end included."""
    for number, data in iterate_numbered_byte_lines(file, MAX_ROW_BYTES):
        if len(data) > MAX_ROW_BYTES:
            raise DataError(f"{table}, line {number}: it is longer than {MAX_ROW_BYTES:,} bytes.")
        try:
            yield number, decode_utf8(data)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: {error}.") from error


def find_metadata_table(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the path of a folder's metadata table, or None. Raises DataError if there are two."""
    found = [name for name in TABLE_FILE_NAMES if name in names]
    if len(found) > 1:
        raise DataError(f"{folder} holds both {' and '.join(found)}: keep one of them.")
    return folder / found[0] if found else None
