"""Decoding of image files into upright RGB or RGBA pictures.

PNG, JPEG, WebP and BMP are read; formats whose decoders are larger, such as TIFF, are not. The size
in the header is checked before anything is decoded. Of an animation the first frame is taken.
A picture is turned upright (Exif); gray, palette, 1-bit and CMYK become RGB by Pillow's plain
formulas, colour profiles are not applied; 16 bits become the upper 8.
"""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from t2i.errors import DataError
from t2i.pictures import DECODE_ERRORS, FILE_TYPE_BY_SIGNATURE, MAX_PIXELS, to_rgb_or_rgba

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS_LIMIT = 89_000_000
"""Upper bound of `max_pixels`: above it Pillow reports a decompression bomb."""
EXIF_ORIENTATION_TAG = 0x0112
UPRIGHT_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns a picture upright, by Exif orientation."""
SIDE_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
"""Exif orientations that swap width and height."""


class BrokenPictureError(DataError):
    """Error of a picture that cannot be used, with its name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def attributed_to_picture(self, picture: str) -> "BrokenPictureError":
        """Return an error of another picture, named `picture`, with this error's text as its
        reason: its mask or its archive, which this error names, is broken. The error itself if
        it names that picture already.

        The fault itself may be in its mask or in an archive.
        """
        return self if self.name == picture else BrokenPictureError(picture, str(self))

    def __reduce__(self) -> tuple[type["BrokenPictureError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True, slots=True)
class UprightSizeAndTransparency:
    """Upright size and transparency of a picture, read without decoding it."""

    height: int
    width: int
    transparent: bool


def read_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> UprightSizeAndTransparency:
    """Read size and transparency from the header of an image file. Raises BrokenPictureError."""
    with _open_picture(data, name, max_pixels) as picture:
        height, width = picture.height, picture.width
        if _exif_orientation(picture) in SIDE_SWAPPING_ORIENTATIONS:
            height, width = width, height
        return UprightSizeAndTransparency(height, width, picture.has_transparency_data)


def decode_to_rgb_or_rgba(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file into an upright picture, RGBA if it can be transparent, else RGB.

    Raises BrokenPictureError.
    """
    with _open_picture(data, name, max_pixels) as picture:
        turn = UPRIGHT_TRANSPOSITIONS.get(_exif_orientation(picture))
        try:
            picture.load()
            plain = to_rgb_or_rgba(picture)
        except DECODE_ERRORS as error:
            raise _damaged(name, error) from error
        return plain if turn is None else plain.transpose(turn)


def _open_picture(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Return the picture undecoded, after checking its format and size."""
    try:
        picture = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except UnidentifiedImageError:
        raise BrokenPictureError(
            name,
            f"is {_describe_contents(data)}; expected a PNG, JPEG, WebP or BMP picture: convert it",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "far more pixels", max_pixels) from None
    except DECODE_ERRORS as error:
        raise _damaged(name, error) from error
    if picture.width * picture.height > max_pixels:
        raise _too_large(name, f"{picture.width}x{picture.height} pixels", max_pixels)
    return picture


def _exif_orientation(picture: Image.Image) -> int:
    """Return the Exif orientation, 1 to 8; 1, upright, if there is no readable Exif data.

    Exif data behind the pixels of a PNG is ignored: Pillow would decode the whole file to find it.
    """
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1
    try:
        return int(picture.getexif().get(EXIF_ORIENTATION_TAG, 1))
    except (*DECODE_ERRORS, TypeError, KeyError):
        return 1


def composite_over_white(picture: Image.Image) -> Image.Image:
    """Return the picture in mode RGB, composited over white."""
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _describe_contents(data: bytes) -> str:
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return "an AVIF, HEIC or video file"
    return next(
        (kind for magic, kind in FILE_TYPE_BY_SIGNATURE.items() if data.startswith(magic)),
        "no picture we know",
    )


def _too_large(name: str, found: str, max_pixels: int) -> BrokenPictureError:
    return BrokenPictureError(
        name,
        f"holds {found}; at most {max_pixels:,} are decoded: scale it down, or raise max_pixels",
    )


def _damaged(name: str, error: Exception) -> BrokenPictureError:
    return BrokenPictureError(name, f"is damaged or cut short ({error}): get a fresh copy")
