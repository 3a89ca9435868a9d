"""The pictures of a folder, whichever way people lay them out.

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
from t2i.terminal import several
from train.data.decode import BrokenPicture
from train.data.sources.listed import MAX_CAPTION, FileSource, Listed, Listing, as_caption
from train.data.sources.metadata import TABLES, Rows, rows_of, table_in

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
FOREIGN_SUFFIXES = (".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd")
"""Listed too, so that they are told as pictures that cannot be read rather than passed over."""
CAPTION_SUFFIXES = (".txt", ".caption")
MOST_REPEATS = 999
"""A larger number before a folder's name, such as a year, is no number of repeats."""
REPEATED = re.compile(r"(\d+)_(.*)")


@dataclass(frozen=True, slots=True)
class FolderRules:
    """How a folder is to be read."""

    caption_suffixes: tuple[str, ...] = CAPTION_SUFFIXES
    caption_column: str | None = None
    masks: Path | None = None
    losers: Path | None = None


@dataclass(slots=True)
class _Reading:
    rules: FolderRules
    listing: Listing = field(default_factory=Listing)
    rows: Rows = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)
    orphans: list[Path] = field(default_factory=list)


def list_folder(folder: Path, rules: FolderRules | None = None) -> Listing:
    """Everything in the folder and the ones below, in the order of the names.

    Raises DataError where there is no such folder, or a table in it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file, not a folder of pictures."
            if folder.exists()
            else f"No such folder of pictures: {folder}. Check the path."
        )
    rules = rules or FolderRules()
    reading = _Reading(rules)
    masks = named_in(rules.masks, "masks") if rules.masks else None
    losers = named_in(rules.losers, "losers") if rules.losers else None
    repeated = repeated_folders(folder)
    for place, names in walk(folder, (rules.masks, rules.losers)):
        if table := table_in(place, names):
            reading.rows |= rows_of(table, rules.caption_column)
        first = place.relative_to(folder).parts[:1]
        repeats, words = repeated.get(first[0], (1, "")) if first else (1, "")
        texts = texts_in(names, rules.caption_suffixes)
        told = set()
        for name in names:
            path = place / name
            suffix = path.suffix.lower()
            if suffix not in SUFFIXES + FOREIGN_SUFFIXES:
                if name not in texts.values() and name not in TABLES:
                    reading.passed_over[suffix or name] += 1
                continue
            captions, text = captions_of(reading, path, texts)
            told |= {text}
            if captions is None:
                continue
            loser = named_as(path.relative_to(folder), losers)
            if losers is not None and loser is None:
                reason = f"has no worse one of its name in {rules.losers}"
                reading.listing.broken.append(BrokenPicture(str(path), reason))
                continue
            reading.listing.pictures.append(
                Listed(
                    str(path),
                    FileSource(path),
                    captions or ((words,) if words else ()),
                    named_as(path.relative_to(folder), masks),
                    repeats,
                    path.stem,
                    place.name,
                    loser,
                )
            )
        reading.orphans += [place / text for text in sorted({*texts.values()} - told)]
    note_what_is_left(reading, repeated)
    return reading.listing


def why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def texts_in(names: Iterable[str], suffixes: Sequence[str]) -> dict[str, str]:
    """The files of captions, by their names with a suffix in small letters."""
    found = ((Path(name), name) for name in names)
    return {
        path.stem + path.suffix.lower(): name
        for path, name in found
        if path.suffix.lower() in suffixes
    }


def captions_of(
    reading: _Reading, path: Path, texts: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, str | None]:
    """What is said of the picture, None where that cannot be read; and the text file that told."""
    names = (path.stem + suffix for suffix in reading.rules.caption_suffixes)
    beside = next((texts[name] for name in names if name in texts), None)
    if path in reading.rows:
        reading.seen.add(path)
        if captions := reading.rows[path]:
            return captions, beside
    if beside is None:
        return (), None
    try:
        text = as_caption(read_bounded(path.with_name(beside), MAX_CAPTION))
    except (OSError, ValueError) as error:
        reading.listing.broken.append(
            BrokenPicture(str(path), f"its caption {beside} cannot be used: {why(error)}")
        )
        return None, beside
    return ((text,) if text else ()), beside


def note_what_is_left(reading: _Reading, repeated: dict[str, tuple[int, str]]) -> None:
    listing = reading.listing
    for path in sorted(reading.rows.keys() - reading.seen):
        reason = "its suffix is no picture's" if path.exists() else "is not there"
        listing.broken.append(BrokenPicture(str(path), f"named in the metadata, but {reason}"))
    for name, (repeats, words) in repeated.items():
        listing.notes.append(f"{name}: each picture {repeats} times; caption {words!r} if none")
    if reading.orphans:
        listing.notes.append(
            f"{several(len(reading.orphans), 'caption')} without a picture: {some(reading.orphans)}"
        )
    if reading.passed_over:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in reading.passed_over.most_common(6))
        others = several(reading.passed_over.total(), "other file")
        listing.notes.append(f"passed over: {others} ({kinds})")


def walk(folder: Path, without: Sequence[Path | None] = ()) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the names of its files; links are followed, hidden ones are not entered."""
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


def repeated_folders(folder: Path) -> dict[str, tuple[int, str]]:
    """Repeats and words of the folders in it named as `10_sks dog`, if all of them are."""
    found = {}
    for below in sorted(folder.iterdir()):
        if below.name.startswith(".") or not below.is_dir():
            continue
        match = REPEATED.fullmatch(below.name)
        if match is None or not 1 <= int(match[1]) <= MOST_REPEATS:
            return {}
        found[below.name] = int(match[1]), match[2].strip()
    return found


def named_in(folder: Path, what: str) -> dict[str, Path]:
    """Pictures of a folder by their path in it, without its suffix."""
    if not folder.is_dir():
        raise DataError(f"No such folder of {what}: {folder}. Check the path.")
    return {
        (place / name).relative_to(folder).with_suffix("").as_posix(): place / name
        for place, names in walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    }


def named_as(picture: Path, others: dict[str, Path] | None) -> FileSource | None:
    """The one of the same path and name, or else of the same name at the top."""
    names = picture.with_suffix("").as_posix(), picture.stem
    other = next((others[name] for name in names if name in others), None) if others else None
    return FileSource(other) if other else None


def some(paths: list[Path], most: int = 5) -> str:
    told = ", ".join(str(path) for path in paths[:most])
    return told + (", ..." if len(paths) > most else "")
