"""Listing of a data set of the library `datasets`, by its name or from a folder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.errors import ArgumentError, DataError, suggest_choice
from t2i.optional_dependencies import build_install_command
from train.data.decode import BrokenPictureError
from train.data.sources.listing import FileBytes, PictureEntry, PictureListing, parse_caption_cell
from train.data.sources.metadata import CAPTION_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

SAVED_DATASET_FILE_NAMES = ("dataset_info.json", "state.json")
"""Files in a folder that `save_to_disk` wrote."""
ROWS_PER_BATCH = 256
"""Rows of a table that are looked at together."""


@dataclass(frozen=True, slots=True)
class DatasetCellBytes:
    """Source of the bytes of a picture in a row of a `datasets` table.

    Each process opens the table's files itself.
    """

    table: "Dataset"
    row: int
    column: str

    def read(self) -> bytes:
        """Return the bytes of the picture: those in the table's cell, or of the file that it
        names.
        """
        cell = self.table[self.row][self.column]
        if cell is None:
            raise BrokenPictureError(f"row {self.row}", "has no picture")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        return FileBytes(Path(cell["path"])).read()


def list_huggingface_dataset(
    name: str,
    configuration: str | None = None,
    split: str = "train",
    image_column: str = "image",
    caption_column: str | None = None,
    hint_column: str | None = None,
) -> PictureListing:
    """List the rows of a Hugging Face data set as pictures, which are neither read nor decoded yet.

    hint_column : column of the hints, which a control reads

    Raises ArgumentError for an unknown column, DataError if the data set cannot be opened.
    """
    table = open_huggingface_dataset(name, configuration, split)
    pictures = select_undecoded_image_column(table, name, "image_column", image_column)
    hints = None if hint_column is None else list_hint_cells(table, name, hint_column)
    listing = PictureListing()
    captions = read_caption_column_or_none(table, name, caption_column)
    for row in range(len(table)):
        place = f"{name}[{row}]"
        try:
            texts = parse_caption_cell(captions[row]) if captions is not None else ()
        except ValueError as error:
            listing.broken.append(BrokenPictureError(place, str(error)))
            continue
        source = DatasetCellBytes(pictures, row, image_column)
        hint = None if hints is None else hints[row]
        listing.pictures.append(
            PictureEntry(place, source, texts, stem=str(row), folder=Path(name).name, hint=hint)
        )
    return listing


def select_undecoded_image_column(table: "Dataset", name: str, key: str, column: str) -> "Dataset":
    """Return one column of pictures of a `datasets` table, whose cells are not decoded.

    key : of the config that names the column

    Raises ArgumentError for an unknown column, and for one that holds no pictures.
    """
    columns = table.column_names
    if column not in columns:
        raise ArgumentError(
            f"{key} = {column!r} is no column of {name}. {suggest_choice(column, columns)}"
        )
    import datasets

    try:
        return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ArgumentError(f"{key} = {column!r} of {name} holds no pictures: {error}.") from error


def list_hint_cells(table: "Dataset", name: str, column: str) -> list[DatasetCellBytes | None]:
    """List the hints of a table's rows, which are not read yet; None for an empty cell."""
    hints = select_undecoded_image_column(table, name, "hint_column", column)
    has_picture: list[bool] = []
    for batch in hints.with_format("arrow").iter(ROWS_PER_BATCH):
        has_picture += batch[column].is_valid().to_pylist()
    return [
        DatasetCellBytes(hints, row, column) if present else None
        for row, present in enumerate(has_picture)
    ]


def read_caption_column_or_none(
    table: "Dataset", name: str, wanted: str | None
) -> list[object] | None:
    """Read the caption column of a `datasets` table, a cell for each row; None if there is no
    such column.
    """
    columns = table.column_names
    if wanted is not None and wanted not in columns:
        raise ArgumentError(
            f"caption_column = {wanted!r} is no column of {name}. {suggest_choice(wanted, columns)}"
        )
    found = [wanted] if wanted else [column for column in CAPTION_COLUMNS if column in columns]
    if len(found) > 1:
        raise ArgumentError(
            f"{name}: which are the captions, {' or '.join(map(repr, found))}? Set caption_column."
        )
    return list(table[found[0]]) if found else None


def open_huggingface_dataset(name: str, configuration: str | None, split: str) -> "Dataset":
    """Open a table of the library `datasets` by hub name or path.

    Raises ArgumentError if the library or the split is missing, DataError if it cannot be opened.
    """
    try:
        import datasets
    except ImportError:
        raise ArgumentError(
            f"dataset = {name!r} needs the library datasets, which is not installed: "
            f"{build_install_command('data')}"
        ) from None
    saved = Path(name).is_dir() and any(
        (Path(name) / file).is_file() for file in SAVED_DATASET_FILE_NAMES
    )
    load = partial(datasets.load_from_disk, name)
    if not saved:
        load = partial(datasets.load_dataset, name, configuration, split=split)
    try:
        table = load()
    except Exception as error:  # whatever a builder, a hub or a file system raises
        raise DataError(f"datasets cannot open {name!r} (split {split!r}): {error}") from error
    if isinstance(table, dict):
        if split not in table:
            raise ArgumentError(
                f"split = {split!r} is none of {name}. {suggest_choice(split, table)}"
            )
        table = table[split]
    return table
