"""Record of the pictures that a run began with, so that a resumed run has the same order.

A picture that is missing since then keeps its position, and another one replaces it there; new
pictures are not used.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from t2i.atomic_files import write_atomically
from t2i.errors import ArgumentError, DataError
from t2i.safe_reading import RUN, read_bounded
from t2i.terminal import several
from train.data.buckets import Shape
from train.data.decode import BrokenPictureError
from train.data.discovery import FoundPictures, list_and_read_pictures
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig
from train.data.sources.listing import PictureEntry
from train.data.survey import Progress, SurveyedPicture


class RecordedPicture(BaseModel):
    """One picture in the record of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    subset: int
    digest: str
    mask_digest: str
    captions: tuple[str, ...]
    repeats: int
    height: int
    width: int
    transparent: bool
    loser_digest: str = ""


class PictureRecord(BaseModel):
    """All pictures that a run began with. number : of them, broken ones included"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    pictures: tuple[RecordedPicture, ...]


@dataclass(frozen=True, slots=True)
class MissingSource:
    """Source of a recorded picture that is no longer there."""

    def read(self) -> bytes:
        """Raise FileNotFoundError, as the recorded picture is gone."""
        raise FileNotFoundError


def load_run_pictures(
    config: PicturesConfig, path: Path, progress: Progress | None = None
) -> Pictures:
    """Return the pictures of the run whose record is at `path`, and write that if it is missing.

    Raises ArgumentError if captions, masks, pairs or repeats have changed since it was written.
    """
    if not path.exists():
        pictures = Pictures(config, progress)
        text = build_record(pictures.found).model_dump_json()
        write_atomically(path, lambda part: part.write_text(text, "utf-8"))
        return pictures
    record = read_picture_record(path)
    sound = {
        digest
        for one in record.pictures
        for digest in (one.digest, one.mask_digest, one.loser_digest)
    }
    found = list_and_read_pictures(config, progress, sound)
    return Pictures(config, found=match_pictures_to_record(found, record))


def build_record(found: FoundPictures) -> PictureRecord:
    """Return the record of the pictures that were found."""
    return PictureRecord(
        number=found.total, pictures=tuple(map(build_record_entry, found.pictures))
    )


def build_record_entry(one: SurveyedPicture) -> RecordedPicture:
    """Return the record entry of a picture."""
    return RecordedPicture(
        name=one.entry.name,
        subset=one.subset,
        digest=one.digest,
        mask_digest=one.mask_digest,
        captions=one.entry.captions,
        repeats=one.entry.repeats,
        height=one.shape.height,
        width=one.shape.width,
        transparent=one.transparent,
        loser_digest=one.loser_digest,
    )


def read_picture_record(path: Path) -> PictureRecord:
    """Read the record of a run. Raises DataError if it cannot be read."""
    try:
        return PictureRecord.model_validate_json(read_bounded(path, RUN.max_bytes))
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(
            f"Cannot read the record of the run's pictures {path}: {why}. Begin anew with another "
            "--out."
        ) from error


def match_pictures_to_record(found: FoundPictures, record: PictureRecord) -> FoundPictures:
    """Return the found pictures in the order of the record, matched by content and not by path.

    Missing ones become broken ones. Raises ArgumentError for changed captions, masks or repeats.
    """
    here: dict[tuple[str, int], list[SurveyedPicture]] = defaultdict(list)
    for one in reversed(found.pictures):
        here[one.digest, one.subset].append(one)
    pictures, broken, changed = [], list(found.broken), []
    broken_names = {one.name for one in broken}
    for kept in record.pictures:
        alike = here[kept.digest, kept.subset]
        if not alike:
            pictures.append(build_missing_picture(kept))
            if kept.name not in broken_names:
                broken.append(BrokenPictureError(kept.name, "is missing since the run began"))
            continue
        one = next((one for one in reversed(alike) if is_unchanged(one, kept)), alike[-1])
        alike.remove(one)
        pictures.append(one)
        if not is_unchanged(one, kept):
            changed.append(one.entry.name)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ArgumentError(
            f"Captions, masks, pairs or repeats have changed since the run began, of "
            f"{', '.join(changed[:5])}{more}: restore them, or begin anew with another --out."
        )
    new = sum(map(len, here.values()))
    notes = found.notes + (
        f"new since the run began, so not used: {several(new, 'picture')}",
    ) * bool(new)
    return replace(
        found, pictures=tuple(pictures), broken=tuple(broken), total=record.number, notes=notes
    )


def is_unchanged(one: SurveyedPicture, kept: RecordedPicture) -> bool:
    """Return True if the picture is as recorded in everything but its name."""
    now = build_record_entry(one)
    return now.model_copy(update={"name": kept.name}) == kept


def build_missing_picture(kept: RecordedPicture) -> SurveyedPicture:
    """Return an entry for a recorded picture that is no longer there; reading it fails."""
    entry = PictureEntry(
        kept.name,
        MissingSource(),
        kept.captions,
        repeats=kept.repeats,
        loser=MissingSource() if kept.loser_digest else None,
    )
    shape = Shape(kept.height, kept.width)
    return SurveyedPicture(
        entry,
        kept.subset,
        shape,
        kept.transparent,
        kept.digest,
        kept.mask_digest,
        loser_digest=kept.loser_digest,
    )
