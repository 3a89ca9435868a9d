"""Reading every picture before the first step: what there is, what is broken, what will happen."""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

from t2i.masks import Oddity, mask_oddity
from train.data.buckets import Shape
from train.data.decode import BrokenPicture, Header, decode, read_header
from train.data.sources.listed import Listed, Source, read_bytes

AHEAD = 256
"""Pictures that wait to be read at a time, so that a data set of any size fits into memory."""
MASK = "its mask"
"""How an error calls it."""
LOSER = "the worse one of its pair"
ASPECT = 0.01
"""By which share the proportions of a mask or a worse one may differ from the picture's."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures read, and of all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What reading a picture told.

    shape : of the upright picture
    digest, mask_digest, loser_digest : SHA-256 of the file's bytes, of its mask's, and of those of
        the worse one of its pair; "" without one
    odd_mask : what of its mask may not be meant, where that was decoded
    """

    listed: Listed
    subset: int
    shape: Shape
    transparent: bool
    digest: str
    mask_digest: str
    odd_mask: Oddity | None = None
    loser_digest: str = ""


def survey(
    listed: Iterable[tuple[int, Listed]],
    max_pixels: int,
    decoded: bool,
    sound: Container[str] = (),
    progress: Progress | None = None,
) -> Iterator[Seen | BrokenPicture]:
    """Read all pictures, several at a time, and give what they told in their own order.

    decoded : decode each too; without it a picture whose header is sound passes
    sound : digests of pictures that were decoded before
    """
    todo = list(listed)

    def one(place: tuple[int, Listed]) -> Seen | BrokenPicture:
        subset, picture = place
        try:
            return look(subset, picture, max_pixels, decoded, sound)
        except BrokenPicture as error:
            return error.of(picture.name)

    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for start in range(0, len(todo), AHEAD):
            for number, found in enumerate(pool.map(one, todo[start : start + AHEAD]), start + 1):
                if progress is not None:
                    progress(number, len(todo))
                yield found


def look(
    subset: int, listed: Listed, max_pixels: int, decoded: bool, sound: Container[str]
) -> Seen:
    """Raises BrokenPicture."""
    data = read_bytes(listed.source, listed.name)
    digest, mask_digest, loser_digest = hashlib.sha256(data).hexdigest(), "", ""
    odd = None
    header = read_header(data, listed.name, max_pixels)
    if decoded and digest not in sound:
        decode(data, listed.name, max_pixels)
    if listed.mask is not None:
        mask, mask_digest = beside(listed.mask, MASK, header, max_pixels)
        if decoded and mask_digest not in sound:
            odd = mask_oddity(decode(mask, MASK, max_pixels))
    if listed.loser is not None:
        loser, loser_digest = beside(listed.loser, LOSER, header, max_pixels)
        if decoded and loser_digest not in sound:
            decode(loser, LOSER, max_pixels)
    shape = Shape(header.height, header.width)
    return Seen(listed, subset, shape, header.transparent, digest, mask_digest, odd, loser_digest)


def beside(source: Source, what: str, picture: Header, max_pixels: int) -> tuple[bytes, str]:
    """The bytes and the digest of what goes with a picture. Raises BrokenPicture for another
    shape."""
    data = read_bytes(source, what)
    its = read_header(data, what, max_pixels)
    here, there = picture.width * its.height, its.width * picture.height
    if abs(here - there) > ASPECT * here:
        raise BrokenPicture(
            what,
            f"is {its.width}x{its.height}, of other proportions than the picture's "
            f"{picture.width}x{picture.height}",
        )
    return data, hashlib.sha256(data).hexdigest()
