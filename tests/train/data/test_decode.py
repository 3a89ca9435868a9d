"""What odd pictures become, and what is refused."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.train.data.making import COLOURS, noise, plain
from train.data.decode import (
    UPRIGHT_TRANSPOSITIONS,
    BrokenPictureError,
    UprightSizeAndTransparency,
    composite_over_white,
    decode_to_rgb_or_rgba,
    read_header,
)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def mean(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).reshape(-1, len(picture.getbands())).mean(axis=0)


@pytest.mark.parametrize("orientation", [1, *UPRIGHT_TRANSPOSITIONS])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_a_picture_upright(orientation: int, form: str) -> None:
    upright = plain("blue", 48, 32)
    upright.paste(COLOURS["red"], (0, 0, 16, 16))  # its upper left corner
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo.get(orientation, UPRIGHT_TRANSPOSITIONS.get(orientation))
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, form, exif=exif)

    assert read_header(data, "a") == UprightSizeAndTransparency(32, 48, transparent=False)
    shown = decode_to_rgb_or_rgba(data, "a")
    assert shown.size == (48, 32)
    assert np.abs(mean(shown.crop((2, 2, 14, 14))) - COLOURS["red"]).max() < 12
    assert np.abs(mean(shown.crop((20, 20, 46, 30))) - COLOURS["blue"]).max() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and gives none
def test_unreadable_exif_counts_as_none() -> None:
    data = encoded(plain("red", 24, 16), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_header(data, "a") == UprightSizeAndTransparency(16, 24, transparent=False)
    assert decode_to_rgb_or_rgba(data, "a").size == (24, 16)


@pytest.mark.parametrize("colour", ["red", "green", "gray"])
def test_cmyk_becomes_rgb(colour: str) -> None:
    shown = decode_to_rgb_or_rgba(encoded(plain(colour).convert("CMYK"), "JPEG", quality=95), "a")
    assert shown.mode == "RGB"
    assert np.abs(mean(shown) - COLOURS[colour]).max() < 5


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_one_bit_and_palette_become_rgb(mode: str) -> None:
    picture = plain("gray" if mode == "L" else "black").convert(mode)
    shown = decode_to_rgb_or_rgba(encoded(picture), "a")
    assert shown.mode == "RGB"
    assert np.array_equal(np.asarray(shown), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_of_gray_keep_the_upper_eight() -> None:
    values = np.array([[0, 255, 256, 40_000, 65_535]], dtype=np.uint16)
    shown = decode_to_rgb_or_rgba(encoded(Image.fromarray(values)), "a")
    assert np.asarray(shown)[0, :, 0].tolist() == [0, 0, 1, 156, 255]
    assert shown.mode == "RGB"


def test_sixteen_bits_of_colour_keep_the_upper_eight() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    rows = b"\0" + struct.pack(">3H", 0x1234, 0xFF00, 0x00FF)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decode_to_rgb_or_rgba(data, "a").getpixel((0, 0)) == (0x12, 0xFF, 0x00)


def test_what_is_transparent_becomes_white() -> None:
    picture = plain("blue").convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((40, 40)))
    data = encoded(picture)
    assert read_header(data, "a").transparent
    shown = np.asarray(composite_over_white(decode_to_rgb_or_rgba(data, "a"))).astype(float)
    alpha = np.asarray(picture.getchannel("A"))[..., None] / 255
    expected = alpha * np.array(COLOURS["blue"]) + (1 - alpha) * 255
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_a_transparent_colour_of_a_palette_or_gray_counts(mode: str) -> None:
    gray = np.array([[0, 200]], dtype=np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(gray)
    if mode == "P":
        picture = picture.convert("P")
    shown = decode_to_rgb_or_rgba(encoded(picture, transparency=200), "a")
    assert shown.mode == "RGBA"
    assert np.asarray(shown)[0, :, 3].tolist() == [255, 0]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    rest = [plain("green"), plain("blue")]
    data = encoded(plain("red"), form, save_all=True, append_images=rest, lossless=True)
    assert np.abs(mean(decode_to_rgb_or_rgba(data, "a"))[:3] - COLOURS["red"]).max() < 3


def test_a_bmp_is_read() -> None:
    assert np.array_equal(
        np.asarray(decode_to_rgb_or_rgba(encoded(noise(0, 9, 7), "BMP"), "a")),
        np.asarray(noise(0, 9, 7)),
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more than its few bytes."""
    data = bytearray(encoded(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">2I", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize(
    ("width", "height", "told"),
    [(9000, 8000, "9000x8000 pixels"), (60_000, 60_000, "far more pixels")],
)
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int, told: str) -> None:
    with pytest.raises(BrokenPictureError, match=f"big.png: holds {told}; at most 64,000,000"):
        decode_to_rgb_or_rgba(bomb(width, height), "big.png")


def test_the_limit_can_be_lowered() -> None:
    with pytest.raises(BrokenPictureError, match="holds 40x40 pixels; at most 1,000 are decoded"):
        read_header(encoded(plain("red")), "a", max_pixels=1000)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_picture_cut_short_is_told(form: str, share: float) -> None:
    data = encoded(noise(1, 64, 64), form)
    with pytest.raises(
        BrokenPictureError, match=r"cut\.x: is damaged or cut short .*get a fresh copy"
    ):
        decode_to_rgb_or_rgba(data[: int(len(data) * share)], "cut.x")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"II*\0" + bytes(20), "a TIFF"),
        (b"\0\0\0\x20ftypheic" + bytes(20), "an AVIF, HEIC or video file"),
        (b"<svg></svg>", "an SVG"),
        (b"hello, world", "no picture we know"),
    ],
)
def test_other_kinds_of_files_are_named(data: bytes, kind: str) -> None:
    with pytest.raises(BrokenPictureError, match=f"is {kind}; expected a PNG, JPEG, WebP or BMP"):
        read_header(data, "a")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_anywhere_is_a_picture_or_an_error_of_ours(data: st.DataObject) -> None:
    whole = bytearray(
        encoded(noise(2, 24, 24), data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"])))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        shown = decode_to_rgb_or_rgba(bytes(whole), "a", max_pixels=1_000_000)
    except BrokenPictureError:
        return
    header = read_header(bytes(whole), "a", max_pixels=1_000_000)
    assert shown.size == (header.width, header.height)


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BrokenPictureError("a.png", "is empty")))
    assert (error.name, error.reason, str(error)) == ("a.png", "is empty", "a.png: is empty")
