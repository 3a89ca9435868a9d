"""Listing of a folder of pictures, in any of the usual structures.

A picture's caption is, where there is one, that of metadata.jsonl or metadata.csv in its folder or
one above; else the text beside it under the same name; else the words of a folder named as
`10_sks dog`, whose pictures are repeated ten times.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2i.errors import DataError
from t2i.safe_reading import read_bounded
from t2i.terminal import plural
from train.data.decode import BrokenPictureError
from train.data.sources.listing import (
    MAX_CAPTION_BYTES,
    FileBytes,
    PictureEntry,
    PictureListing,
    decode_caption_file,
)
from train.data.sources.metadata import (
    TABLE_FILE_NAMES,
    CaptionsByPicture,
    find_metadata_table,
    read_captions_from_csv_or_jsonl,
    read_hint_files_by_picture,
)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
UNREADABLE_PICTURE_SUFFIXES = (
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".psd",
)
"""Suffixes listed too, so that such pictures are reported as unreadable and not ignored."""
CAPTION_SUFFIXES = (".txt", ".caption")
MAX_REPEATS = 999
"""Greatest number of repeats in a folder's name; a larger one may be a year."""
REPEATS_FOLDER_PATTERN = re.compile(r"(\d+)_(.*)")


@dataclass(frozen=True, slots=True)
class PictureFolderOptions:
    """Options for listing a folder of training pictures: suffixes of caption files, caption and
    hint columns, folders of masks, worse pictures of pairs and hints.
    """

    caption_suffixes: tuple[str, ...] = CAPTION_SUFFIXES
    caption_column: str | None = None
    masks: Path | None = None
    losers: Path | None = None
    hints: Path | None = None
    hint_column: str | None = None


@dataclass(slots=True)
class _Scan:
    options: PictureFolderOptions
    listing: PictureListing = field(default_factory=PictureListing)
    rows: CaptionsByPicture = field(default_factory=dict)
    hints: dict[Path, FileBytes] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)
    orphans: list[Path] = field(default_factory=list)


def list_picture_folder(
    folder: Path, options: PictureFolderOptions | None = None
) -> PictureListing:
    """List the pictures in a folder and the folders below it, with captions, masks and repeats.

    Raises DataError if there is no such folder, or if a table in it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file, not a folder of pictures."
            if folder.exists()
            else f"No such folder of pictures: {folder}. Check the path."
        )
    options = options or PictureFolderOptions()
    scan = _Scan(options)
    masks = map_pictures_by_relative_path(options.masks, "masks") if options.masks else None
    losers = map_pictures_by_relative_path(options.losers, "losers") if options.losers else None
    hints = map_pictures_by_relative_path(options.hints, "hints") if options.hints else None
    paired: set[Path] = set()
    hint_files: set[Path] = set()
    repeated = parse_kohya_folder_names(folder)
    for place, names in walk_folders_with_file_names(
        folder, (options.masks, options.losers, options.hints)
    ):
        if table := find_metadata_table(place, names):
            scan.rows |= read_captions_from_csv_or_jsonl(
                table, options.caption_column, options.hint_column
            )
            if options.hint_column:
                scan.hints |= read_hint_files_by_picture(table, options.hint_column)
                hint_files = {hint.path for hint in scan.hints.values()} - scan.rows.keys()
        first = place.relative_to(folder).parts[:1]
        repeats, words = repeated.get(first[0], (1, "")) if first else (1, "")
        texts = map_normalized_to_actual_caption_filenames(names, options.caption_suffixes)
        used_texts = set()
        for name in names:
            path = place / name
            if path in hint_files:
                continue
            suffix = path.suffix.lower()
            if suffix not in PICTURE_SUFFIXES + UNREADABLE_PICTURE_SUFFIXES:
                if name not in texts.values() and name not in TABLE_FILE_NAMES:
                    scan.ignored[suffix or name] += 1
                continue
            captions, text = read_captions_and_caption_file_name(scan, path, texts)
            used_texts |= {text}
            if captions is None:
                continue
            loser = find_same_named_file(path.relative_to(folder), losers)
            if losers is not None and loser is None:
                reason = f"has no worse one of its name in {options.losers}"
                scan.listing.broken.append(BrokenPictureError(str(path), reason))
                continue
            hint = find_same_named_file(path.relative_to(folder), hints) or scan.hints.get(path)
            paired |= {other.path for other in (loser, hint) if other is not None}
            scan.listing.pictures.append(
                PictureEntry(
                    str(path),
                    FileBytes(path),
                    captions or ((words,) if words else ()),
                    find_same_named_file(path.relative_to(folder), masks),
                    repeats,
                    path.stem,
                    place.name,
                    loser,
                    hint,
                )
            )
        scan.orphans += [place / text for text in sorted({*texts.values()} - used_texts)]
    add_missing_and_ignored_files_to_listing(scan, repeated)
    for others, what in (
        (losers, ("worse picture", "a better one")),
        (hints, ("hint", "a picture")),
    ):
        if others and (lonely := sorted({*others.values()} - paired)):
            scan.listing.notes.append(
                f"{plural(len(lonely), what[0])} without {what[1]}: {format_first_paths(lonely)}"
            )
    return scan.listing


def format_os_error_reason(error: OSError | ValueError) -> str:
    """Return the reason of an OSError as text, without errno and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def map_normalized_to_actual_caption_filenames(
    names: Iterable[str], suffixes: Sequence[str]
) -> dict[str, str]:
    """Return the caption files among a folder's file names, as a map from each name with its suffix
    in lower case to the name on disk.
    """
    found = ((Path(name), name) for name in names)
    return {
        path.stem + path.suffix.lower(): name
        for path, name in found
        if path.suffix.lower() in suffixes
    }


def read_captions_and_caption_file_name(
    scan: _Scan, path: Path, texts: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, str | None]:
    """Read the captions of a picture from metadata or from a caption file; return them with the
    caption file's name.

    The captions are None if the file cannot be read; the name is None without a file.
    """
    names = (path.stem + suffix for suffix in scan.options.caption_suffixes)
    beside = next((texts[name] for name in names if name in texts), None)
    if path in scan.rows:
        scan.seen.add(path)
        if captions := scan.rows[path]:
            return captions, beside
    if beside is None:
        return (), None
    try:
        text = decode_caption_file(read_bounded(path.with_name(beside), MAX_CAPTION_BYTES))
    except (OSError, ValueError) as error:
        scan.listing.broken.append(
            BrokenPictureError(
                str(path), f"its caption {beside} cannot be used: {format_os_error_reason(error)}"
            )
        )
        return None, beside
    return ((text,) if text else ()), beside


def add_missing_and_ignored_files_to_listing(
    scan: _Scan, repeated: dict[str, tuple[int, str]]
) -> None:
    """Add to the listing of a folder what its scan found aside from pictures: pictures named in
    metadata but missing (as broken), and notes on repeats, captions without a picture and
    ignored files.
    """
    listing = scan.listing
    for path in sorted(scan.rows.keys() - scan.seen):
        reason = "its suffix is no picture's" if path.exists() else "is not there"
        listing.broken.append(BrokenPictureError(str(path), f"named in the metadata, but {reason}"))
    for name, (repeats, words) in repeated.items():
        listing.notes.append(f"{name}: each picture {repeats} times; caption {words!r} if none")
    if scan.orphans:
        listing.notes.append(
            f"{plural(len(scan.orphans), 'caption')} without a picture: "
            f"{format_first_paths(scan.orphans)}"
        )
    if scan.ignored:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in scan.ignored.most_common(6))
        others = plural(scan.ignored.total(), "other file")
        listing.notes.append(f"ignored: {others} ({kinds})")


def walk_folders_with_file_names(
    folder: Path, without: Sequence[Path | None] = ()
) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with the names of its files; links are followed, hidden folders skipped."""
    entered = set()
    left_out = {other.resolve() for other in without if other}
    for place, below, names in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        if here in entered or here in left_out:
            below.clear()
            continue
        entered.add(here)
        below[:] = sorted(name for name in below if name[0] != "." and name != "__MACOSX")
        yield Path(place), sorted(name for name in names if name[0] != ".")


def parse_kohya_folder_names(folder: Path) -> dict[str, tuple[int, str]]:
    """Parse the names of a folder's subfolders, such as `10_sks dog`, into repeats and words, by
    name; return an empty dict unless all of them have this form.
    """
    found = {}
    for below in sorted(folder.iterdir()):
        if below.name.startswith(".") or not below.is_dir():
            continue
        match = REPEATS_FOLDER_PATTERN.fullmatch(below.name)
        if match is None or not 1 <= int(match[1]) <= MAX_REPEATS:
            return {}
        found[below.name] = int(match[1]), match[2].strip()
    return found


def map_pictures_by_relative_path(folder: Path, what: str) -> dict[str, Path]:
    """Map the relative paths of a folder's pictures, without suffix, to their files."""
    if not folder.is_dir():
        raise DataError(f"No such folder of {what}: {folder}. Check the path.")
    return {
        (place / name).relative_to(folder).with_suffix("").as_posix(): place / name
        for place, names in walk_folders_with_file_names(folder)
        for name in names
        if Path(name).suffix.lower() in PICTURE_SUFFIXES
    }


def find_same_named_file(picture: Path, others: dict[str, Path] | None) -> FileBytes | None:
    """Return the mask or worse picture of a picture: the file with the same relative path, or
    else with the same name, without suffix.
    """
    names = picture.with_suffix("").as_posix(), picture.stem
    other = next((others[name] for name in names if name in others), None) if others else None
    return FileBytes(other) if other else None


def format_first_paths(paths: list[Path], most: int = 5) -> str:
    """Format the first `most` paths as text, with "..." if there are more."""
    text = ", ".join(str(path) for path in paths[:most])
    return text + (", ..." if len(paths) > most else "")
