"""Photos as cameras and programs write them: upright, in plain colours, with what they say."""

import io
import os
import time
import warnings

import numpy as np
import piexif
import pytest
import torch
from PIL import Image, ImageCms

from pipelines.images.photo import prepare_photo
from pipelines.images.photo_reading import read_upright_picture
from t2i.errors import ArgumentError, DataError
from tests.test_pictures import png_header

DATE = b"2026:11:30 12:00:00"
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientation -> how a camera held so stores an upright scene."""


def colourful(width=24, height=16, channels=3):
    """Noise, so that no pixel is like its neighbour."""
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


def gradient(width=24, height=16):
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    values = [across * 10, down * 15, 255 - across * 5]
    return Image.fromarray(np.stack(values, axis=-1).clip(0, 255).astype(np.uint8))


def camera_exif(orientation=1, size=(24, 16)):
    """Exif with a date, the maker's notes and a thumbnail."""
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(thumbnail, "JPEG")
    return piexif.dump(
        {
            "0th": {piexif.ImageIFD.Orientation: orientation, piexif.ImageIFD.Make: b"Camera"},
            "Exif": {
                piexif.ExifIFD.DateTimeOriginal: DATE,
                piexif.ExifIFD.MakerNote: bytes(range(64)),
                piexif.ExifIFD.PixelXDimension: size[0],
                piexif.ExifIFD.PixelYDimension: size[1],
            },
            "1st": {piexif.ImageIFD.Compression: 6},
            "thumbnail": thumbnail.getvalue(),
        }
    )


def wide_gamut_profile():
    """A profile of RGB whose channels are sRGB's, in another order: red is blue and so on."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the time at which it was made
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_is_upright_however_the_camera_was_held(tmp_path, orientation, suffix):
    turn = TURNS[orientation]
    stored = gradient() if turn is None else gradient().transpose(turn)
    exif = camera_exif(orientation, stored.size)
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=100, lossless=True)
    read = read_upright_picture("picture", tmp_path / f"a.{suffix}")
    difference = np.asarray(read.picture).astype(int) - np.asarray(gradient())
    assert np.abs(difference).max() <= (30 if suffix == "jpg" else 0)
    kept = piexif.load(read.exif)
    assert kept["0th"][piexif.ImageIFD.Orientation] == 1
    assert kept["Exif"][piexif.ExifIFD.DateTimeOriginal] == DATE
    assert kept["Exif"][piexif.ExifIFD.MakerNote] == bytes(range(64))
    assert kept["Exif"][piexif.ExifIFD.PixelXDimension] == 24
    assert kept["Exif"][piexif.ExifIFD.PixelYDimension] == 16
    assert kept["thumbnail"] is None


def test_the_same_photo_from_path_image_array_and_tensor(tmp_path):
    colourful().save(tmp_path / "a.png")
    array = np.asarray(colourful())
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    given = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        colourful(),
        array,
        array.astype(np.float32) / 255,
        tensor,
        tensor[None] / 255,
    ]
    for one in given:
        np.testing.assert_array_equal(
            np.asarray(read_upright_picture("picture", one).picture), array
        )


GRAY16 = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
MODES = {
    "L": (gradient().convert("L"), np.asarray(gradient().convert("L"))),
    "1": (gradient().convert("1"), np.asarray(gradient().convert("1")) * 255),
    "I;16": (Image.fromarray(GRAY16), (GRAY16 >> 8).astype(np.uint8)),
}


@pytest.mark.parametrize("mode", MODES)
def test_gray_of_any_depth_becomes_that_gray_in_rgb(tmp_path, mode):
    stored, expected = MODES[mode]
    stored.save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", stored):
        read = np.asarray(read_upright_picture("picture", given).picture)
        np.testing.assert_array_equal(read, np.repeat(expected[..., None], 3, axis=2))


def test_cmyk_becomes_rgb(tmp_path):
    gradient().convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    read = np.asarray(read_upright_picture("picture", tmp_path / "a.jpg").picture).astype(int)
    assert np.abs(read - np.asarray(gradient())).max() < 8


def test_a_palette_with_a_clear_colour_is_transparent(tmp_path):
    stored = colourful().quantize(8)
    stored.save(tmp_path / "a.png", transparency=0)
    assert read_upright_picture("picture", tmp_path / "a.png").picture.mode == "RGBA"


def test_what_is_clear_is_white_for_the_model_and_stays_clear_in_the_photo():
    half = colourful()
    half.putalpha(Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(12, 1).astype(np.uint8)))
    photo = prepare_photo(half, 16, 24)
    shown = np.asarray(photo.image)
    assert (shown[:, :12] == 255).all()
    np.testing.assert_array_equal(shown[:, 12:], np.asarray(colourful())[:, 12:])
    np.testing.assert_array_equal(np.asarray(photo.picture), np.asarray(half))


def test_a_profile_is_applied_for_the_model_and_kept_for_the_photo(tmp_path):
    profile = wide_gamut_profile()
    colourful().save(tmp_path / "a.png", icc_profile=profile)
    photo = prepare_photo(tmp_path / "a.png", 16, 24)
    own, shown = np.asarray(photo.picture), np.asarray(photo.image).astype(int)
    np.testing.assert_array_equal(own, np.asarray(colourful()))
    assert np.abs(shown[..., ::-1] - own).max() <= 1  # as the profile says, up to rounding
    assert photo.icc_profile == profile


def test_a_profile_of_srgb_changes_no_pixel(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colourful().save(tmp_path / "a.jpg", icc_profile=profile)
    photo = prepare_photo(tmp_path / "a.jpg", 16, 24)
    np.testing.assert_array_equal(np.asarray(photo.image), np.asarray(photo.picture))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_unusable_profile_is_left_out_with_a_warning(tmp_path, mode):
    gradient().convert(mode).save(tmp_path / "a.jpg", icc_profile=b"no profile", quality=100)
    with pytest.warns(UserWarning, match="The colour profile of the p.* cannot be used"):
        photo = prepare_photo(tmp_path / "a.jpg", 16, 24)
    plain = Image.open(tmp_path / "a.jpg").convert("RGB")
    np.testing.assert_array_equal(np.asarray(photo.image), np.asarray(plain))


def test_a_gray_picture_with_a_profile_of_colours_is_read_by_it(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gradient().convert("LA").save(tmp_path / "a.png", icc_profile=profile)
    read = read_upright_picture("picture", tmp_path / "a.png")
    assert read.picture.mode == "RGBA"
    assert read.icc_profile == b""
    gray = np.asarray(gradient().convert("L")).astype(int)
    assert np.abs(np.asarray(read.picture)[..., 0] - gray).max() <= 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("cut", [9, 20, 60])
def test_damaged_exif_is_left_out_with_a_warning(tmp_path, cut):
    colourful().save(tmp_path / "a.png", exif=camera_exif(6)[:cut])
    with pytest.warns(UserWarning, match="The Exif of the picture is damaged"):
        read = read_upright_picture("picture", tmp_path / "a.png")
    assert read.exif == b""
    assert sorted(read.picture.size) == [16, 24]


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_one_frame_of_an_animation_is_read_with_a_warning(tmp_path, suffix):
    frames = [colourful(), gradient()]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    for given in (tmp_path / f"a.{suffix}", Image.open(tmp_path / f"a.{suffix}")):
        with pytest.warns(UserWarning, match="The picture is an animation of 2 frames, of which"):
            read = read_upright_picture("picture", given)
        np.testing.assert_array_equal(np.asarray(read.picture), np.asarray(colourful()))


def test_the_preview_in_a_phone_s_jpeg_is_no_frame(tmp_path):
    pictures = [gradient(), gradient(12, 8)]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_upright_picture("picture", tmp_path / "a.jpg").picture.size == (24, 16)


# what is no photo


def test_a_hundred_megapixels_are_refused_before_anything_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_001))
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own would stand beside ours
        with pytest.raises(DataError, match=r"10000x10001 pixels; at most 64 million"):
            prepare_photo(tmp_path / "a.png", 32, 32)
    huge = Image.new("L", (1, 1))
    huge._size = (10_000, 10_001)  # as of a file that is not decoded yet
    with pytest.raises(DataError, match="The picture holds 10000x10001 pixels"):
        prepare_photo(huge, 32, 32)
    assert time.process_time() - start < 1


def test_what_is_no_file_of_a_picture_is_refused_in_words(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "text.jpg").write_text("a cat")
    (tmp_path / "cat.heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(40))
    whole = io.BytesIO()
    colourful(200, 200).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:4000])
    expected = {
        "pipe.jpg": "it is a pipe, not a file",
        "text.jpg": "is no picture we know; expected a PNG, JPEG or WebP",
        "cat.heic": "is an AVIF, HEIC or video file",
        "cut.jpg": "Cannot decode .*cut.jpg",
        "none.jpg": "No such picture",
        "": "is a folder, not a picture",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            prepare_photo(tmp_path / name, 32, 32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "Got picture of type int, expected the path of a PNG"),
        (b"cat.png", "Got picture of type bytes"),
        (Image.new("F", (8, 8)), "Got a picture of mode F, expected RGB, gray or CMYK"),
        (Image.new("LAB", (8, 8)), "Got a picture of mode LAB"),
        (torch.zeros(1, 4, 8, 8), r"Got a picture of shape \(1, 4, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), "expected one picture in colour"),
        (torch.full((3, 8, 8), torch.nan), "finite numbers from 0 to 1"),
        (np.zeros((8, 8, 5), np.uint8), r"Got a picture of shape \(8, 8, 5\)"),
        (np.zeros((0, 8, 3), np.uint8), "Got a picture of 8x0 pixels, expected at least one"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_that_are_no_picture_are_refused_in_words(given, message):
    with pytest.raises(ArgumentError, match=message):
        prepare_photo(given, 32, 32)
