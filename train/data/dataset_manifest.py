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
from t2i.safe_reading import RUN_FILE_KIND, read_bounded
from t2i.terminal import plural
from train.data.buckets import Shape
from train.data.decode import BrokenPictureError
from train.data.discovery import FoundPictures, list_and_check_pictures
from train.data.picture_checks import ProgressFunction, UsablePicture
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sources.listing import PictureEntry


class ManifestEntry(BaseModel):
    """Entry of one training picture in the data-set manifest of a run, by which a resumed run
    keeps the order.
    """

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
    hint_digest: str = ""


class DatasetManifest(BaseModel):
    """Data-set manifest of a run: all pictures that it began with.

    number : number of pictures, broken ones included
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    pictures: tuple[ManifestEntry, ...]


@dataclass(frozen=True, slots=True)
class MissingPictureBytes:
    """Source of the bytes of a picture in the manifest whose file is gone; reading it fails."""

    def read(self) -> bytes:
        """Raise FileNotFoundError, as the picture of the manifest is gone."""
        raise FileNotFoundError


def load_pictures_creating_manifest_if_new(
    config: PictureDatasetConfig, path: Path, progress: ProgressFunction | None = None
) -> Pictures:
    """Load the training pictures of a run in the order of its manifest file at `path`; a new run,
    which has no such file yet, gets one written.

    Raises ArgumentError if captions, masks, hints, pairs or repeats have changed since then.
    """
    if not path.exists():
        pictures = Pictures(config, progress)
        text = build_manifest(pictures.found).model_dump_json()
        write_atomically(path, lambda part: part.write_text(text, "utf-8"))
        return pictures
    record = read_manifest(path)
    sound = {
        digest
        for one in record.pictures
        for digest in (one.digest, one.mask_digest, one.loser_digest, one.hint_digest)
    }
    found = list_and_check_pictures(config, progress, sound)
    return Pictures(config, found=match_pictures_to_manifest(found, record))


def build_manifest(found: FoundPictures) -> DatasetManifest:
    """Build the data-set manifest of the pictures that were found."""
    return DatasetManifest(
        number=found.total, pictures=tuple(map(build_manifest_entry, found.pictures))
    )


def build_manifest_entry(one: UsablePicture) -> ManifestEntry:
    """Build the manifest entry of a picture: its name, digests, captions, repeats and size."""
    return ManifestEntry(
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
        hint_digest=one.hint_digest,
    )


def read_manifest(path: Path) -> DatasetManifest:
    """Read the data-set manifest of a run. Raises DataError if it cannot be read."""
    try:
        return DatasetManifest.model_validate_json(read_bounded(path, RUN_FILE_KIND.max_bytes))
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(
            f"Cannot read the record of the run's pictures {path}: {why}. Begin anew with another "
            "--out."
        ) from error


def match_pictures_to_manifest(found: FoundPictures, record: DatasetManifest) -> FoundPictures:
    """Return the found pictures in the order of the manifest, matched by content and not by path.

    Missing ones become broken ones. Raises ArgumentError for changed captions, masks, hints or
    repeats.
    """
    here: dict[tuple[str, int], list[UsablePicture]] = defaultdict(list)
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
        one = next((one for one in reversed(alike) if matches_manifest_entry(one, kept)), alike[-1])
        alike.remove(one)
        pictures.append(one)
        if not matches_manifest_entry(one, kept):
            changed.append(one.entry.name)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ArgumentError(
            f"Captions, masks, hints, pairs or repeats have changed since the run began, of "
            f"{', '.join(changed[:5])}{more}: restore them, or begin anew with another --out."
        )
    new = sum(map(len, here.values()))
    notes = found.notes + (
        f"new since the run began, so not used: {plural(new, 'picture')}",
    ) * bool(new)
    return replace(
        found, pictures=tuple(pictures), broken=tuple(broken), total=record.number, notes=notes
    )


def matches_manifest_entry(one: UsablePicture, kept: ManifestEntry) -> bool:
    """Return True if a picture equals its manifest entry in everything but its name."""
    now = build_manifest_entry(one)
    return now.model_copy(update={"name": kept.name}) == kept


def build_missing_picture(kept: ManifestEntry) -> UsablePicture:
    """Build a stand-in for a picture of the manifest that is no longer there; reading it fails."""
    entry = PictureEntry(
        kept.name,
        MissingPictureBytes(),
        kept.captions,
        repeats=kept.repeats,
        loser=MissingPictureBytes() if kept.loser_digest else None,
        hint=MissingPictureBytes() if kept.hint_digest else None,
    )
    shape = Shape(kept.height, kept.width)
    return UsablePicture(
        entry,
        kept.subset,
        shape,
        kept.transparent,
        kept.digest,
        kept.mask_digest,
        loser_digest=kept.loser_digest,
        hint_digest=kept.hint_digest,
    )
