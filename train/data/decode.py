"""From the bytes of a picture to its pixels: what each kind becomes, and what is refused.

PNG, JPEG, WebP and BMP are read; formats whose decoders are larger, such as TIFF, are not. The size
in the header is checked before anything is decoded. Of an animation the first frame is taken.
A picture is turned upright (Exif); gray, palette, 1-bit and CMYK become RGB by Pillow's plain
formulas, colour profiles are not applied; 16 bits become the upper 8.
"""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from t2i.errors import DataError
from t2i.pictures import FOREIGN, MAX_PIXELS, UNREADABLE, to_rgb_or_rgba

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 89_000_000
"""No limit may be higher: beyond, Pillow itself suspects a decompression bomb."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by the Exif orientation."""
LYING = (5, 6, 7, 8)
"""Orientations that swap width and height."""


class BrokenPicture(DataError):
    """One picture that cannot be used, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def of(self, picture: str) -> "BrokenPicture":
        """The same, told of the picture that breaks by it: it may lie in a mask or archive."""
        return self if self.name == picture else BrokenPicture(picture, str(self))

    def __reduce__(self) -> tuple[type["BrokenPicture"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded; the size is that of the upright one."""

    height: int
    width: int
    transparent: bool


def read_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Header:
    """Raises BrokenPicture."""
    with opened(data, name, max_pixels) as picture:
        height, width = picture.height, picture.width
        if orientation(picture) in LYING:
            height, width = width, height
        return Header(height, width, picture.has_transparency_data)


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright picture: mode RGBA if anything in it may be transparent, else RGB.

    Raises BrokenPicture.
    """
    with opened(data, name, max_pixels) as picture:
        turn = TURNS.get(orientation(picture))
        try:
            picture.load()
            plain = to_rgb_or_rgba(picture)
        except UNREADABLE as error:
            raise damaged(name, error) from error
        return plain if turn is None else plain.transpose(turn)


def opened(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The picture, its header read, its size allowed."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenPicture(
            name, f"is {what_it_is(data)}; expected a PNG, JPEG, WebP or BMP picture: convert it"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(name, "far more pixels", max_pixels) from None
    except UNREADABLE as error:
        raise damaged(name, error) from error
    if picture.width * picture.height > max_pixels:
        raise too_large(name, f"{picture.width}x{picture.height} pixels", max_pixels)
    return picture


def orientation(picture: Image.Image) -> int:
    """1 is upright. Exif that cannot be read counts as none, and so does what follows a PNG's data.

    Pillow would decode the whole PNG to look for it there.
    """
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except (*UNREADABLE, TypeError, KeyError):
        return 1


def over_white(picture: Image.Image) -> Image.Image:
    """Mode RGB; what was transparent is white."""
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def what_it_is(data: bytes) -> str:
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return "an AVIF, HEIC or video file"
    return next(
        (kind for magic, kind in FOREIGN.items() if data.startswith(magic)), "no picture we know"
    )


def too_large(name: str, found: str, max_pixels: int) -> BrokenPicture:
    return BrokenPicture(
        name,
        f"holds {found}; at most {max_pixels:,} are decoded: scale it down, or raise max_pixels",
    )


def damaged(name: str, error: Exception) -> BrokenPicture:
    return BrokenPicture(name, f"is damaged or cut short ({error}): get a fresh copy")
