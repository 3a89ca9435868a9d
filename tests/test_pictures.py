"""Pictures from files, pictures to files, and sheets of them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.errors import ArgumentError, DataError, OutputError
from t2i.pictures import GAP, PAPER, open_picture, save_picture, sheet


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


def test_text_is_refused_where_it_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"Cannot store text in 'a\.webp'"):
        save_picture(colourful(), tmp_path / "a.webp", {"parameters": "a cat"})


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(9000, 9000, "9000x9000 pixels"), (10_000, 10_000, ""), (60_000, 60_000, "far more pixels")],
)
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, found: str
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(DataError, match=rf"bomb\.png holds .*{found}.*at most 64 million"):
        open_picture(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"GIF89a" + bytes(40), "a GIF"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "an AVIF"),
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
    colourful().save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="is a TIFF"):
        open_picture(tmp_path / "a.tiff")


def test_a_missing_picture_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such picture: .*cat\.png"):
        open_picture(tmp_path / "cat.png")
    with pytest.raises(DataError, match="is a folder, not a picture"):
        open_picture(tmp_path)


def test_a_sheet_puts_pictures_in_rows_with_labels_under_them() -> None:
    tints = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [Image.new("RGB", (60, 60), tint) for tint in tints]
    page = np.asarray(sheet(pictures, ["one", "two", ""], columns=2))
    assert page.shape[1] == 2 * 60 + 3 * GAP
    for column, tint in ((0, tints[0]), (1, tints[1])):
        left = GAP + column * (60 + GAP)
        assert (page[GAP : GAP + 60, left : left + 60] == tint).all()
        label = page[GAP + 60 : GAP + 60 + GAP // 2 + 12, left : left + 60]
        assert (label < 100).all(axis=-1).sum() > 10
    blue = np.argwhere((page == tints[2]).all(axis=-1))
    assert len(blue) == 3600
    assert blue[:, 1].min() == GAP
    assert blue[:, 0].min() > GAP + 60 + GAP


def test_long_labels_wrap_and_stay_under_their_picture() -> None:
    pictures = [Image.new("RGB", (90, 20), (200, 0, 0)), Image.new("RGB", (90, 20), (0, 200, 0))]
    short = sheet(pictures, ["a", ""], columns=2)
    words = sheet(
        pictures, ["a red apple to the left of a cat on a blue background", ""], columns=2
    )
    letters = sheet(pictures, ["W" * 60, ""], columns=2)
    for page in (words, letters):
        assert page.height > short.height + 20
        ink = np.asarray(page)[GAP + 20 :] != PAPER
        assert ink.any(axis=(0, 2))[: GAP + 90].any()
        assert not ink.any(axis=(0, 2))[GAP + 92 :].any()


def test_a_sheet_scales_pictures_to_the_cell_and_shows_transparency_as_paper() -> None:
    small = Image.new("RGBA", (10, 20), (0, 0, 0, 0))
    large = Image.new("RGB", (400, 200), (10, 10, 10))
    page = np.asarray(sheet([small, large], ["", ""], columns=5, cell=50))
    assert page.shape[1] == 2 * 50 + 3 * GAP
    assert (page[:, GAP : GAP + 50] == PAPER).all()
    assert (page == 10).all(axis=-1).sum() == 50 * 25


@pytest.mark.parametrize(
    ("count", "labels", "columns", "cell", "message"),
    [
        (0, [], 2, None, "needs at least one picture"),
        (2, ["one"], 2, None, "2 pictures got 1 labels"),
        (1, ["one"], 0, None, "columns must be at least 1, got 0"),
        (1, ["one"], 1, 0, "cell must be at least 1 pixel, got 0"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused(
    count: int, labels: list[str], columns: int, cell: int | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        sheet([colourful()] * count, labels, columns, cell)
