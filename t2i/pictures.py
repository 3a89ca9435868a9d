"""Reading, writing and arranging of picture files. Files are untrusted input."""

import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from t2i.atomic_files import write_atomically
from t2i.errors import ArgumentError, DataError, T2IError
from t2i.exif import MAKER_NOTE, USER_COMMENT, add_exif_fields, build_exif_block
from t2i.safe_reading import PICTURE_KIND, open_untrusted_file
from t2i.terminal import plural

FORMAT_BY_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 64_000_000
MAX_TEXT_BYTES = 256 * 1024
"""Bytes of one text that a picture is given, and that are read from one."""
MAX_JPEG_EXIF_BYTES = 65_533
"""A segment counts its length in two bytes, those two included."""

EXIF_TEXT_FORMATS = {
    "parameters": (USER_COMMENT, b"UNICODE\0", "utf-16-be"),
    "t2i": (MAKER_NOTE, b"t2i\0", "utf-8"),
}
"""Where JPEG and WebP keep a text: its Exif tag, what stands before it, and its encoding."""

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises for damaged files."""

# First bytes of what people try to open, so that the message can name it.
FILE_TYPE_BY_SIGNATURE = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<?xml": "an SVG or other XML",
    b"8BPS": "a Photoshop file",
    b"\0\0\1\0": "an ICO",
}

MIN_DISPLAY_WIDTH = 256
"""Pixels to which smaller pictures, heat maps and labels are enlarged for display."""
GAP_PIXELS = 8
INK, PAPER = (20, 20, 20), (255, 255, 255)


def open_picture(path: Path) -> Image.Image:
    """Return a PNG, JPEG or WebP file as an image turned upright, in mode RGB or RGBA.

    The size in the header is checked before anything is decoded. An animation gives one frame.
    """
    with opening_picture_as_stored(path) as picture:
        return to_rgb_or_rgba(ImageOps.exif_transpose(picture))


@contextmanager
def opening_picture_as_stored(path: Path) -> Iterator[Image.Image]:
    """Decode a PNG, JPEG or WebP file within the block, as it is stored: not turned, in its mode.

    What Pillow raises within the block becomes a DataError that names the file.
    """
    with _opening_header(path) as picture:
        picture.load()
        yield picture


def read_picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG, JPEG or WebP file as it is stored, without decoding it."""
    with _opening_header(path) as picture:
        return picture.size


@contextmanager
def _opening_header(path: Path) -> Iterator[Image.Image]:
    """Open a picture file within the block; its pixels are decoded when they are first read."""
    try:
        with open_untrusted_file(path, PICTURE_KIND) as file:
            with warnings.catch_warnings():
                # Of pictures that are refused below, by a lower limit.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                picture = Image.open(file, formats=sorted(set(FORMAT_BY_SUFFIX.values())))
            with picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise build_too_large_error(path, f"{picture.width}x{picture.height} pixels")
                yield picture
    except T2IError:
        raise  # an ArgumentError is a ValueError, too
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is {describe_file_type(path)}; expected a PNG, JPEG or WebP picture. "
            "Convert it first."
        ) from None
    except Image.DecompressionBombError:
        raise build_too_large_error(path, "far more pixels") from None
    except DECODE_ERRORS as error:
        raise DataError(
            f"Cannot decode {path}: {error}. The file is damaged or cut short; get a fresh copy."
        ) from error


def build_too_large_error(name: object, found: str) -> DataError:
    """Return a DataError for a picture of too many pixels."""
    return DataError(
        f"{name} holds {found}; at most {MAX_PIXELS // 1_000_000} million are decoded. "
        f"Scale it down first."
    )


def describe_file_type(path: Path) -> str:
    """Return a description of a file's type, by its first bytes, for messages about a file that is
    no readable picture.
    """
    with open_untrusted_file(path, PICTURE_KIND) as file:
        start = file.read(16)
    if not start:
        return "empty"
    if start[4:8] == b"ftyp":
        return "an AVIF, HEIC or video file"
    return next(
        (name for magic, name in FILE_TYPE_BY_SIGNATURE.items() if start.startswith(magic)),
        "no picture we know",
    )


def to_rgb_or_rgba(picture: Image.Image) -> Image.Image:
    """Return a picture as RGBA if it may have transparency, else as RGB.

    16-bit gray becomes 8-bit.
    """
    if not picture.mode.startswith("I"):
        mode = "RGBA" if picture.has_transparency_data else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)
    gray = np.asarray(picture).astype(np.uint32)
    plain = Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")
    if isinstance(clear := picture.info.get("transparency"), int):
        plain.putalpha(Image.fromarray(np.where(gray == clear, 0, 255).astype(np.uint8)))
    return plain


def save_picture(
    picture: Image.Image,
    path: Path,
    text: Mapping[str, str] | None = None,
    *,
    exif: bytes = b"",
    icc_profile: bytes = b"",
) -> None:
    """Save a picture atomically, in the format that its suffix names.

    text : keys and values to store in it, such as {"parameters": "..."}: any in a PNG, those of
        EXIF_TEXT_FORMATS in JPEG and WebP. What has no room is left out with a warning. None stores
        none.
    exif, icc_profile : of a photo, to keep
    """
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None:
        raise ArgumentError(
            f"Cannot save a picture as {path.name!r}: {path.suffix!r} names no format we write. "
            f"Choices: {', '.join(FORMAT_BY_SUFFIX)}."
        )
    if form == "JPEG" and picture.mode not in ("RGB", "L"):
        raise ArgumentError(
            f"Cannot save a picture of mode {picture.mode} as {path.name!r}: JPEG holds no "
            f"transparency. Use .png or .webp, or convert it to RGB."
        )
    options: dict[str, object] = {} if form == "PNG" else {"quality": 95}
    if form == "JPEG":
        options["comment"] = b""  # Else Pillow keeps the comment of the file it was read from.
    if form == "JPEG" and len(exif) > MAX_JPEG_EXIF_BYTES:
        warnings.warn(
            f"{path.name} is saved without the photo's Exif of {len(exif):,} bytes: a JPEG has "
            "room for 64 KiB; .png and .webp have more.",
            stacklevel=2,
        )
        exif = b""
    if text and form == "PNG":
        options["pnginfo"] = build_png_text_chunks(text, path.name)
    elif text:
        exif = build_metadata_exif_block(text, form, path.name, exif)
    options |= {"exif": exif} if exif else {}
    options |= {"icc_profile": icc_profile} if icc_profile else {}
    write_atomically(path, lambda temporary: picture.save(temporary, format=form, **options))


def build_png_text_chunks(text: Mapping[str, str], name: str) -> PngInfo:
    """Build PNG text chunks from metadata texts; those above MAX_TEXT_BYTES are left out with a
    warning.
    """
    info = PngInfo()
    for key, value in text.items():
        size = len(value.encode())
        if size > MAX_TEXT_BYTES:
            _warn_text_left_out(
                key, size, name, f"at most {MAX_TEXT_BYTES // 1024} KiB of a text are read back"
            )
        else:
            info.add_text(key, value)
    return info


def build_metadata_exif_block(
    text: Mapping[str, str], form: str, name: str, photo_exif: bytes = b""
) -> bytes:
    """Build an Exif block for JPEG or WebP from metadata texts, added to that of a photo.

    `parameters` comes first: if there is room for one text only, it is the one most tools read.
    """
    if unknown := text.keys() - EXIF_TEXT_FORMATS.keys():
        raise ArgumentError(
            f"Cannot store text under {', '.join(map(repr, sorted(unknown)))} in {name!r}: "
            f"{form} carries only {', '.join(map(repr, EXIF_TEXT_FORMATS))}. Use .png."
        )

    def build(fields: Mapping[int, bytes]) -> bytes:
        return add_exif_fields(photo_exif, fields) if photo_exif else build_exif_block(fields)

    fields: dict[int, bytes] = {}
    for key, (tag, start, encoding) in EXIF_TEXT_FORMATS.items():
        if key not in text:
            continue
        fields[tag] = start + text[key].encode(encoding)
        size = len(fields[tag])
        if size > MAX_TEXT_BYTES:
            _warn_text_left_out(
                key, size, name, f"at most {MAX_TEXT_BYTES // 1024} KiB of a text are read back"
            )
            del fields[tag]
        elif form == "JPEG" and len(build(fields)) > MAX_JPEG_EXIF_BYTES:
            _warn_text_left_out(
                key, size, name, "a JPEG has room for 64 KiB in all; .png and .webp have more"
            )
            del fields[tag]
    return build(fields) if fields else photo_exif


def _warn_text_left_out(key: str, size: int, name: str, why: str) -> None:
    warnings.warn(
        f"{name} is saved without its text {key!r} of {size:,} bytes: {why}.", stacklevel=4
    )


def build_picture_grid(
    pictures: Sequence[Image.Image],
    labels: Sequence[str],
    columns: int,
    cell: int | None = None,
) -> Image.Image:
    """Return pictures arranged in a grid, each with its label wrapped underneath.

    cell : width each picture is scaled to, in pixels; the widest picture's by default
    """
    if not pictures:
        raise ArgumentError("A sheet needs at least one picture.")
    if len(labels) != len(pictures):
        raise ArgumentError(
            f"A sheet of {plural(len(pictures), 'picture')} got {plural(len(labels), 'label')}: "
            "give one each."
        )
    if columns < 1:
        raise ArgumentError(f"columns must be at least 1, got {columns}.")
    if cell is not None and cell < 1:
        raise ArgumentError(f"cell must be at least 1 pixel, got {cell}.")
    width = cell or max(picture.width for picture in pictures)
    columns = min(columns, len(pictures))
    font = ImageFont.load_default(size=max(10, min(16, width // 12)))
    line = (
        math.ceil(sum(font.getmetrics()) * 1.1) if isinstance(font, ImageFont.FreeTypeFont) else 12
    )

    # how tall each row gets
    scaled = [scale_to_width(picture, width) for picture in pictures]
    texts = [wrap_text(label, font, width) for label in labels]
    starts = range(0, len(pictures), columns)
    picture_heights = [max(p.height for p in scaled[start : start + columns]) for start in starts]
    label_heights = [line * max(len(t) for t in texts[start : start + columns]) for start in starts]

    # put everything in its place
    total = sum(picture_heights) + sum(label_heights) + GAP_PIXELS * (2 * len(starts) + 1)
    page = Image.new("RGB", (columns * (width + GAP_PIXELS) + GAP_PIXELS, total), PAPER)
    draw = ImageDraw.Draw(page)
    top = GAP_PIXELS
    for row, start in enumerate(starts):
        for column, index in enumerate(range(start, min(start + columns, len(pictures)))):
            left = GAP_PIXELS + column * (width + GAP_PIXELS)
            page.paste(scaled[index], (left, top), scaled[index])
            for number, words in enumerate(texts[index]):
                under = top + picture_heights[row] + GAP_PIXELS // 2 + number * line
                draw.text((left, under), words, fill=INK, font=font)
        top += picture_heights[row] + label_heights[row] + 2 * GAP_PIXELS
    return page


def scale_to_width(picture: Image.Image, width: int) -> Image.Image:
    """Return a picture scaled to a width: Lanczos when shrinking, nearest neighbour when
    enlarging.
    """
    height = max(1, round(picture.height * width / picture.width))
    method = Image.Resampling.LANCZOS if width < picture.width else Image.Resampling.NEAREST
    return picture.convert("RGBA").resize((width, height), method)


def wrap_text(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Return text as lines, wrapped at spaces, and inside a word only if it is wider than a
    line.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        current = ""
        for word in paragraph.split():
            if font.getlength(f"{current} {word}".strip()) <= width:
                current = f"{current} {word}".strip()
                continue
            if current:
                lines.append(current)
            while len(word) > 1 and font.getlength(word) > width:
                fit = max(
                    n for n in range(1, len(word)) if n == 1 or font.getlength(word[:n]) <= width
                )
                lines.append(word[:fit])
                word = word[fit:]
            current = word
        lines.append(current)
    return lines
