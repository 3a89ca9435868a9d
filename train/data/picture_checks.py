"""Checks of all pictures before the first step: each is read once, to find the broken ones."""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

from t2i.masks import MaskMistake, find_mask_mistake
from train.data.buckets import Shape
from train.data.decode import (
    BrokenPictureError,
    UprightSizeAndTransparency,
    decode_to_rgb_or_rgba,
    read_header,
)
from train.data.sources.listing import ByteSource, PictureEntry, read_byte_source

PICTURES_PER_CHUNK = 256
"""Pictures read at a time, so that a data set of any size fits into memory."""
MASK_TEXT_IN_ERRORS = "its mask"
"""Name of a mask in errors."""
LOSER_TEXT_IN_ERRORS = "the worse one of its pair"
"""Name of the worse picture of a pair in errors."""
HINT_TEXT_IN_ERRORS = "its hint"
"""Name of a hint in errors."""
MAX_ASPECT_DIFFERENCE = 0.01
"""Relative difference in aspect ratio allowed between a picture and its mask, hint or worse one."""

ProgressFunction = Callable[[int, int], None]
"""Callback with the number of pictures read so far and of all."""


@dataclass(frozen=True, slots=True)
class UsablePicture:
    """A usable picture with what was found by reading it once: shape, transparency, digests.

    subset : index of its subset
    shape : of the upright picture
    digest, mask_digest, loser_digest, hint_digest : SHA-256 of the bytes of the file, of its mask,
        of the worse picture of its pair and of its hint; "" without one
    odd_mask : kind of a mask that is probably a mistake, if it was decoded
    """

    entry: PictureEntry
    subset: int
    shape: Shape
    transparent: bool
    digest: str
    mask_digest: str
    odd_mask: MaskMistake | None = None
    loser_digest: str = ""
    hint_digest: str = ""


def iterate_usable_and_broken_pictures(
    entries: Iterable[tuple[int, PictureEntry]],
    max_pixels: int,
    decoded: bool,
    sound: Container[str] = (),
    progress: ProgressFunction | None = None,
) -> Iterator[UsablePicture | BrokenPictureError]:
    """Read and check all listed pictures in several threads and yield, in their order, a
    UsablePicture for each good one and a BrokenPictureError for each bad one.

    decoded : decode each picture; otherwise a readable header is enough
    sound : digests of files that were decoded before
    """
    todo = list(entries)

    def read_one(item: tuple[int, PictureEntry]) -> UsablePicture | BrokenPictureError:
        subset, picture = item
        try:
            return read_usable_picture(subset, picture, max_pixels, decoded, sound)
        except BrokenPictureError as error:
            return error.attributed_to_picture(picture.name)

    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for start in range(0, len(todo), PICTURES_PER_CHUNK):
            for number, found in enumerate(
                pool.map(read_one, todo[start : start + PICTURES_PER_CHUNK]), start + 1
            ):
                if progress is not None:
                    progress(number, len(todo))
                yield found


def read_usable_picture(
    subset: int, entry: PictureEntry, max_pixels: int, decoded: bool, sound: Container[str]
) -> UsablePicture:
    """Read and check one listed picture, with its mask, hint and the worse picture of its pair, and
    return it as a UsablePicture. Raises BrokenPictureError.
    """
    data = read_byte_source(entry.source, entry.name)
    digest, mask_digest, loser_digest = hashlib.sha256(data).hexdigest(), "", ""
    hint_digest = ""
    odd = None
    header = read_header(data, entry.name, max_pixels)
    if decoded and digest not in sound:
        decode_to_rgb_or_rgba(data, entry.name, max_pixels)
    if entry.mask is not None:
        mask, mask_digest = _read_companion(entry.mask, MASK_TEXT_IN_ERRORS, header, max_pixels)
        if decoded and mask_digest not in sound:
            odd = find_mask_mistake(decode_to_rgb_or_rgba(mask, MASK_TEXT_IN_ERRORS, max_pixels))
    if entry.loser is not None:
        loser, loser_digest = _read_companion(entry.loser, LOSER_TEXT_IN_ERRORS, header, max_pixels)
        if loser_digest == digest:
            raise BrokenPictureError(
                LOSER_TEXT_IN_ERRORS, "is the same picture, so neither is better"
            )
        if decoded and loser_digest not in sound:
            decode_to_rgb_or_rgba(loser, LOSER_TEXT_IN_ERRORS, max_pixels)
    if entry.hint is not None:
        hint, hint_digest = _read_companion(entry.hint, HINT_TEXT_IN_ERRORS, header, max_pixels)
        if decoded and hint_digest not in sound:
            decode_to_rgb_or_rgba(hint, HINT_TEXT_IN_ERRORS, max_pixels)
    return UsablePicture(
        entry,
        subset,
        Shape(header.height, header.width),
        header.transparent,
        digest,
        mask_digest,
        odd,
        loser_digest,
        hint_digest,
    )


def _read_companion(
    source: ByteSource, what: str, picture: UprightSizeAndTransparency, max_pixels: int
) -> tuple[bytes, str]:
    """Return bytes and digest of a mask, a hint or a worse picture.

    Raises BrokenPictureError if its aspect ratio is not the picture's.
    """
    data = read_byte_source(source, what)
    its = read_header(data, what, max_pixels)
    here, there = picture.width * its.height, its.width * picture.height
    if abs(here - there) > MAX_ASPECT_DIFFERENCE * here:
        raise BrokenPictureError(
            what,
            f"is {its.width}x{its.height}, of other proportions than the picture's "
            f"{picture.width}x{picture.height}",
        )
    return data, hashlib.sha256(data).hexdigest()
