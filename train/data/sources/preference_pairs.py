"""Listing of preference pairs from a JSONL file: {"caption": ..., "win": path, "lose": path}."""

from pathlib import Path

from t2i.errors import DataError, suggest_choice
from t2i.safe_reading import CAPTION_TABLE_KIND
from train.data.sources.listing import FileBytes, PictureEntry, PictureListing, parse_caption_cell
from train.data.sources.metadata import (
    check_path_stays_in_folder,
    find_hint_of_row,
    iterate_csv_or_jsonl_rows,
)

CAPTION_KEY, WINNER_KEY, LOSER_KEY = "caption", "win", "lose"
PAIRS_KIND = CAPTION_TABLE_KIND.copy_with_noun("file of pairs")


def list_preference_pairs(table: Path, hint_column: str | None = None) -> PictureListing:
    """List the pairs of a JSONL file; paths in it are relative to its folder.

    hint_column : key of the path of a pair's hint

    A picture may be part of several pairs. Raises DataError, with file and line, for a file or line
    that cannot be read, a side or caption that is missing, and a pair of one file with itself.
    """
    listing = PictureListing()
    for line, row in iterate_csv_or_jsonl_rows(table, PAIRS_KIND):
        place = f"{table}, line {line}"
        names = {
            key: parse_picture_path_of_pair_row(row, key, place) for key in (WINNER_KEY, LOSER_KEY)
        }
        win, lose = (table.parent / name for name in names.values())
        if win == lose:
            raise DataError(
                f"{place}: {WINNER_KEY} and {LOSER_KEY} are the same file, {names[WINNER_KEY]!r}; "
                "expected two pictures of which the first is better."
            )
        captions = parse_captions_of_pair_row(row, place)
        listing.pictures.append(
            PictureEntry(
                str(win),
                FileBytes(win),
                captions,
                stem=win.stem,
                folder=win.parent.name,
                loser=FileBytes(lose),
                hint=find_hint_of_row(row, hint_column, table, place),
            )
        )
    return listing


def parse_picture_path_of_pair_row(row: dict[str, object], key: str, place: str) -> str:
    """Return the path of one of the two pictures of a preference pair, taken by its key from a row
    of the JSONL file. Raises DataError without one.
    """
    name = row.get(key)
    if not isinstance(name, str) or not name:
        given = f"{key!r} is {name!r}" if key in row else f"no {key!r}"
        raise DataError(
            f"{place}: {given}; expected the path of a picture, as a pair has two sides. "
            f"{suggest_choice(key, row)}"
        )
    check_path_stays_in_folder(name, place)
    return name


def parse_captions_of_pair_row(row: dict[str, object], place: str) -> tuple[str, ...]:
    """Return the captions of a preference pair from its row of the JSONL file. Raises DataError if
    there is none.
    """
    try:
        captions = parse_caption_cell(row.get(CAPTION_KEY))
    except ValueError as error:
        raise DataError(f"{place}: {error}.") from None
    if not captions:
        raise DataError(
            f"{place}: no {CAPTION_KEY!r}; expected the prompt of which one picture is better. "
            f"{suggest_choice(CAPTION_KEY, row)}"
        )
    return captions
