"""The pictures a run began with, kept beside it: a run that goes on shows them in the same order.

A picture that was lost since keeps its place, where another one stands in for it; new ones wait for
another run.
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
from train.data.decode import BrokenPicture
from train.data.discovery import Found, find
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig
from train.data.sources.listed import Listed
from train.data.survey import Progress, Seen


class Recorded(BaseModel):
    """What is kept of a picture."""

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


class Record(BaseModel):
    """number : of all pictures there were, broken ones too"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    pictures: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class LostSource:
    """Where a picture was."""

    def read(self) -> bytes:
        raise FileNotFoundError


def pictures_of_run(
    config: PicturesConfig, path: Path, progress: Progress | None = None
) -> Pictures:
    """The pictures of the run whose record is at `path`; at first it is written.

    Raises ArgumentError where captions, masks, pairs or repeats have changed since.
    """
    if not path.exists():
        pictures = Pictures(config, progress)
        text = record_of(pictures.found).model_dump_json()
        write_atomically(path, lambda part: part.write_text(text, "utf-8"))
        return pictures
    record = read_record(path)
    sound = {
        digest
        for one in record.pictures
        for digest in (one.digest, one.mask_digest, one.loser_digest)
    }
    found = find(config, progress, sound)
    return Pictures(config, found=follow(found, record))


def record_of(found: Found) -> Record:
    return Record(number=found.number, pictures=tuple(map(recorded, found.seen)))


def recorded(one: Seen) -> Recorded:
    return Recorded(
        name=one.listed.name,
        subset=one.subset,
        digest=one.digest,
        mask_digest=one.mask_digest,
        captions=one.listed.captions,
        repeats=one.listed.repeats,
        height=one.shape.height,
        width=one.shape.width,
        transparent=one.transparent,
        loser_digest=one.loser_digest,
    )


def read_record(path: Path) -> Record:
    try:
        return Record.model_validate_json(read_bounded(path, RUN.most))
    except (OSError, ValidationError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(
            f"Cannot read the record of the run's pictures {path}: {why}. Begin anew with another "
            "--out."
        ) from error


def follow(found: Found, record: Record) -> Found:
    """What was found, as the run began with it: told by content, so that paths may change."""
    here: dict[tuple[str, int], list[Seen]] = defaultdict(list)
    for one in reversed(found.seen):
        here[one.digest, one.subset].append(one)
    seen, broken, changed = [], list(found.broken), []
    told = {one.name for one in broken}
    for kept in record.pictures:
        alike = here[kept.digest, kept.subset]
        if not alike:
            seen.append(lost(kept))
            if kept.name not in told:
                broken.append(BrokenPicture(kept.name, "is not there since the run began"))
            continue
        one = next((one for one in reversed(alike) if same(one, kept)), alike[-1])
        alike.remove(one)
        seen.append(one)
        if not same(one, kept):
            changed.append(one.listed.name)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ArgumentError(
            f"Captions, masks, pairs or repeats have changed since the run began, of "
            f"{', '.join(changed[:5])}{more}: restore them, or begin anew with another --out."
        )
    new = sum(map(len, here.values()))
    notes = found.notes + (
        f"new since the run began, so not shown: {several(new, 'picture')}",
    ) * bool(new)
    return replace(found, seen=tuple(seen), broken=tuple(broken), number=record.number, notes=notes)


def same(one: Seen, kept: Recorded) -> bool:
    now = recorded(one)
    return now.model_copy(update={"name": kept.name}) == kept


def lost(kept: Recorded) -> Seen:
    listed = Listed(
        kept.name,
        LostSource(),
        kept.captions,
        repeats=kept.repeats,
        loser=LostSource() if kept.loser_digest else None,
    )
    shape = Shape(kept.height, kept.width)
    return Seen(
        listed,
        kept.subset,
        shape,
        kept.transparent,
        kept.digest,
        kept.mask_digest,
        loser_digest=kept.loser_digest,
    )
