"""Pictures from files, pictures to files, and sheets of them."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from t2i.errors import ArgumentError, DataError, OutputError
from t2i.exif import EXIF_IFD, MAKER_NOTE, USER_COMMENT
from t2i.pictures import (
    GAP_PIXELS,
    MAX_TEXT_BYTES,
    PAPER,
    build_picture_grid,
    open_picture,
    read_picture_size,
    save_picture,
)


def colourful(width: int = 24, height: int = 16) -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixel."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 0) + b"IDAT"


def test_a_png_comes_back_exactly_with_its_text(tmp_path: Path) -> None:
    picture, path = colourful(), tmp_path / "new" / "a.png"
    text = {"parameters": "a cat\nSteps: 20", "t2i": '{"é": "猫"}'}
    save_picture(picture, path, text)
    np.testing.assert_array_equal(np.asarray(open_picture(path)), np.asarray(picture))
    with Image.open(path) as stored:
        stored.load()
        assert stored.text == text
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_the_suffix_names_the_format(tmp_path: Path, name: str) -> None:
    picture = Image.new("RGB", (24, 16), (200, 60, 30))
    save_picture(picture, tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        assert stored.format == {"g": "JPEG", "p": "WEBP"}[name.lower().replace("jpeg", "g")[-1]]
    again = open_picture(tmp_path / name)
    assert again.mode == "RGB"
    assert np.abs(np.asarray(again).astype(int) - np.asarray(picture)).max() < 8


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"'\.gif' names no format we write\. Choices: \.png"):
        save_picture(colourful(), tmp_path / "a.gif")


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_exif_carries_the_texts_where_other_tools_look(tmp_path: Path, name: str) -> None:
    text = {"parameters": "a cat \u732b\nSteps: 20", "t2i": '{"\u00e9": 1}'}
    save_picture(colourful(), tmp_path / name, text)
    with Image.open(tmp_path / name) as stored:
        fields = stored.getexif().get_ifd(EXIF_IFD)
    assert fields[USER_COMMENT] == b"UNICODE\0" + text["parameters"].encode("utf-16-be")
    assert fields[MAKER_NOTE] == b"t2i\0" + text["t2i"].encode()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_without_text_nothing_is_written_but_the_picture(tmp_path: Path, name: str) -> None:
    picture = colourful()
    picture.info |= {"comment": b"secret", "parameters": "secret", "exif": b"Exif\0\0secret"}
    save_picture(picture, tmp_path / name)
    assert b"secret" not in (tmp_path / name).read_bytes()
    with Image.open(tmp_path / name) as stored:
        stored.load()
        assert not stored.getexif()
        assert not getattr(stored, "text", {})


def test_a_key_that_exif_has_no_place_for_is_refused(tmp_path: Path) -> None:
    expected = r"under 'mood' in 'a\.webp': WEBP carries only 'parameters', 't2i'\. Use \.png"
    with pytest.raises(ArgumentError, match=expected):
        save_picture(colourful(), tmp_path / "a.webp", {"parameters": "a cat", "mood": "calm"})
    assert not (tmp_path / "a.webp").exists()


def test_what_has_no_room_in_a_jpeg_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    text = {"t2i": "x" * 40_000, "parameters": "y" * 20_000}
    with pytest.warns(UserWarning, match=r"a\.jpg is saved without its text 't2i' of 40,004 bytes"):
        save_picture(colourful(), path, text)
    with Image.open(path) as stored:
        fields = stored.getexif().get_ifd(EXIF_IFD)
    assert len(fields[USER_COMMENT]) == 40_008
    assert MAKER_NOTE not in fields
    with pytest.warns(
        UserWarning, match="'parameters' of 66,008 bytes: a JPEG has room for 64 KiB"
    ):
        save_picture(colourful(), path, {"parameters": "y" * 33_000})
    assert open_picture(path).size == (24, 16)


def test_a_jpeg_is_filled_to_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_picture(colourful(), path, {"parameters": "y" * 32_700})
    with Image.open(path) as stored:
        assert len(stored.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]) == 65_408


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_text_longer_than_is_read_back_is_left_out_with_a_warning(
    tmp_path: Path, name: str
) -> None:
    with pytest.warns(UserWarning, match="'t2i' of .* bytes: at most 256 KiB of a text are read"):
        save_picture(
            colourful(), tmp_path / name, {"t2i": "x" * (MAX_TEXT_BYTES + 1), "parameters": "y"}
        )
    assert open_picture(tmp_path / name).size == (24, 16)


def test_transparency_is_refused_as_jpeg_and_kept_as_png(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (10, 20, 30, 40))
    with pytest.raises(ArgumentError, match=r"mode RGBA as 'a\.jpg': JPEG holds no transparency"):
        save_picture(picture, tmp_path / "a.jpg")
    save_picture(picture, tmp_path / "a.png")
    again = open_picture(tmp_path / "a.png")
    assert again.mode == "RGBA"
    assert again.getpixel((3, 3)) == (10, 20, 30, 40)


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*a\.png"):
        save_picture(colourful(), tmp_path / "a.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 16), (255, 255, 255))
    picture.paste((0, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = open_picture(tmp_path / "a.jpg")
    assert upright.size == (16, 32)
    assert np.asarray(upright)[:12].mean() < 20
    assert np.asarray(upright)[20:].mean() > 235
    assert 0x0112 not in upright.getexif()


def test_palettes_and_grays_become_plain_colours(tmp_path: Path) -> None:
    palette = Image.new("RGBA", (8, 8), (255, 0, 0, 0)).quantize(4)
    palette.save(tmp_path / "palette.png")
    assert open_picture(tmp_path / "palette.png").mode == "RGBA"
    Image.new("L", (8, 8), 77).save(tmp_path / "gray.png")
    assert open_picture(tmp_path / "gray.png").getpixel((0, 0)) == (77, 77, 77)
    deep = Image.fromarray(np.full((8, 8), 200 * 256 + 9, dtype=np.uint16))
    deep.save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    save_picture(colourful(200, 200), whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        open_picture(path)


def test_a_damaged_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_picture(colourful(200, 200), path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"Cannot decode .*a\.png.*damaged or cut short"):
        open_picture(path)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(9000, 9000, "9000x9000 pixels"), (10_000, 10_000, ""), (60_000, 60_000, "far more pixels")],
)
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, found: str
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    for read in (open_picture, read_picture_size):
        with pytest.raises(DataError, match=rf"bomb\.png holds .*{found}.*at most 64 million"):
            read(path)


def test_a_header_is_checked_without_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png_header(24, 16))
    read_picture_size(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"Cannot decode .*cut\.png"):
        open_picture(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"GIF89a" + bytes(40), "a GIF"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "an AVIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"II*\0" + bytes(40), "a TIFF"),
        (b"just text, really", "no picture we know"),
        (b"", "empty"),
    ],
)
def test_a_foreign_file_is_refused_and_named_whatever_its_suffix(
    tmp_path: Path, data: bytes, what: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.png is {what}.*expected a PNG, JPEG or WebP"):
        open_picture(path)


def test_a_real_picture_of_a_foreign_format_is_not_decoded(tmp_path: Path) -> None:
    colourful().save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(DataError, match="is a TIFF"):
        open_picture(tmp_path / "a.png")


def test_a_picture_whose_text_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "x" * 50_000_000, zip=True)
    colourful().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(DataError, match=r"Cannot decode .*a\.png: Decompressed data too large"):
        open_picture(tmp_path / "a.png")


def test_a_missing_picture_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such picture: .*cat\.png"):
        open_picture(tmp_path / "cat.png")
    with pytest.raises(DataError, match="is a folder, not a picture"):
        open_picture(tmp_path)


def test_a_sheet_puts_pictures_in_rows_with_labels_under_them() -> None:
    tints = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [Image.new("RGB", (60, 60), tint) for tint in tints]
    page = np.asarray(build_picture_grid(pictures, ["one", "two", ""], columns=2))
    assert page.shape[1] == 2 * 60 + 3 * GAP_PIXELS
    for column, tint in ((0, tints[0]), (1, tints[1])):
        left = GAP_PIXELS + column * (60 + GAP_PIXELS)
        assert (page[GAP_PIXELS : GAP_PIXELS + 60, left : left + 60] == tint).all()
        label = page[GAP_PIXELS + 60 : GAP_PIXELS + 60 + GAP_PIXELS // 2 + 12, left : left + 60]
        assert (label < 100).all(axis=-1).sum() > 10
    blue = np.argwhere((page == tints[2]).all(axis=-1))
    assert len(blue) == 3600
    assert blue[:, 1].min() == GAP_PIXELS
    assert blue[:, 0].min() > GAP_PIXELS + 60 + GAP_PIXELS


def test_long_labels_wrap_and_stay_under_their_picture() -> None:
    pictures = [Image.new("RGB", (90, 20), (200, 0, 0)), Image.new("RGB", (90, 20), (0, 200, 0))]
    short = build_picture_grid(pictures, ["a", ""], columns=2)
    words = build_picture_grid(
        pictures, ["a red apple to the left of a cat on a blue background", ""], columns=2
    )
    letters = build_picture_grid(pictures, ["W" * 60, ""], columns=2)
    for page in (words, letters):
        assert page.height > short.height + 20
        ink = np.asarray(page)[GAP_PIXELS + 20 :] != PAPER
        assert ink.any(axis=(0, 2))[: GAP_PIXELS + 90].any()
        assert not ink.any(axis=(0, 2))[GAP_PIXELS + 92 :].any()


def test_a_sheet_scales_pictures_to_the_cell_and_shows_transparency_as_paper() -> None:
    small = Image.new("RGBA", (10, 20), (0, 0, 0, 0))
    large = Image.new("RGB", (400, 200), (10, 10, 10))
    page = np.asarray(build_picture_grid([small, large], ["", ""], columns=5, cell=50))
    assert page.shape[1] == 2 * 50 + 3 * GAP_PIXELS
    assert (page[:, GAP_PIXELS : GAP_PIXELS + 50] == PAPER).all()
    assert (page == 10).all(axis=-1).sum() == 50 * 25


@pytest.mark.parametrize(
    ("count", "labels", "columns", "cell", "message"),
    [
        (0, [], 2, None, "needs at least one picture"),
        (2, ["one"], 2, None, "2 pictures got 1 label"),
        (1, ["one"], 0, None, "columns must be at least 1, got 0"),
        (1, ["one"], 1, 0, "cell must be at least 1 pixel, got 0"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused(
    count: int, labels: list[str], columns: int, cell: int | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_picture_grid([colourful()] * count, labels, columns, cell)
