"""The texts of a JPEG or WebP, read as A1111, Forge and sd-prompt-reader read them: by piexif."""

import struct
from pathlib import Path

import piexif
import piexif.helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.cli.metadata.exif import parse_raw_exif_tags
from t2i.exif import (
    EXIF_IFD,
    MAKER_NOTE,
    UNDEFINED,
    USER_COMMENT,
    add_exif_fields,
    build_exif_block,
    reset_exif_orientation_and_size,
)
from t2i.pictures import save_picture

BYTE = 1
TEXT = {"parameters": "a cat \u732b\nSteps: 20, Seed: 7", "t2i": '{"\u00e9": 1}'}


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_the_comment_is_read_as_a1111_reads_it(tmp_path: Path, name: str) -> None:
    save_picture(Image.new("RGB", (8, 8)), tmp_path / name, TEXT)
    from_file = piexif.load(str(tmp_path / name))
    with Image.open(tmp_path / name) as stored:
        from_info = piexif.load(stored.info["exif"])
    for exif in (from_file, from_info):
        comment = exif["Exif"][piexif.ExifIFD.UserComment]
        assert piexif.helper.UserComment.load(comment) == TEXT["parameters"]
        assert exif["Exif"][piexif.ExifIFD.MakerNote] == b"t2i\0" + TEXT["t2i"].encode()
        assert exif["0th"].keys() == {piexif.ImageIFD.ExifTag}


fields = st.dictionaries(
    st.sampled_from([USER_COMMENT, MAKER_NOTE]), st.binary(min_size=1, max_size=40)
)


@settings(deadline=None)
@given(fields)
def test_what_is_written_is_read_back_by_piexif_by_pillow_and_by_us(
    fields: dict[int, bytes],
) -> None:
    block = build_exif_block(fields)
    assert parse_raw_exif_tags(block.removeprefix(b"Exif\0\0")) == fields
    assert piexif.load(block)["Exif"] == fields
    pillow = Image.Exif()
    pillow.load(block)
    assert pillow.get_ifd(EXIF_IFD) == fields


def test_each_field_is_of_the_type_that_the_standard_names(tmp_path: Path) -> None:
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.jpg", TEXT)
    data = (tmp_path / "a.jpg").read_bytes()
    for tag in (USER_COMMENT, MAKER_NOTE):
        at = data.index(tag.to_bytes(2))
        assert int.from_bytes(data[at + 2 : at + 4]) == UNDEFINED


def test_files_of_an_earlier_t2i_whose_fields_are_bytes_are_still_read() -> None:
    old = Image.Exif()
    below = old.get_ifd(EXIF_IFD)
    below[USER_COMMENT], below[MAKER_NOTE] = b"UNICODE\0\0a", b"t2i\0{}"
    data = old.tobytes()
    place = data.index(USER_COMMENT.to_bytes(2, "little" if data[6:8] == b"II" else "big"))
    assert BYTE in data[place + 2 : place + 4]
    assert parse_raw_exif_tags(data[6:]) == {USER_COMMENT: b"UNICODE\0\0a", MAKER_NOTE: b"t2i\0{}"}


# the Exif of photos

LENS, MODEL, XP_TITLE = 0xA434, 0x0110, 0x9C9B
CAMERA = piexif.dump(
    {
        "0th": {MODEL: b"Camera 7", piexif.ImageIFD.Orientation: 6, XP_TITLE: tuple(b"a\0b\0")},
        "Exif": {
            LENS: b"50 mm",
            MAKER_NOTE: bytes(range(200)),
            piexif.ExifIFD.ExposureTime: (1, 125),
            piexif.ExifIFD.PixelXDimension: 40,
            piexif.ExifIFD.PixelYDimension: 30,
        },
        "GPS": {piexif.GPSIFD.GPSLatitude: ((52, 1), (31, 1), (12, 1))},
    }
)
"""Of a camera that was held upright, whose chip lies across."""


def little_endian(block: bytes) -> bytes:
    """The same Exif as Pillow writes it, in the other byte order."""
    exif = Image.Exif()
    exif.load(block)
    exif.endian = "<"
    return exif.tobytes()


@pytest.mark.parametrize("block", [CAMERA, little_endian(CAMERA)], ids=["big", "little"])
def test_a_photo_turned_upright_keeps_its_exif_but_for_orientation_and_size(block: bytes) -> None:
    before, after = piexif.load(block), piexif.load(reset_exif_orientation_and_size(block, 30, 40))
    changed = {
        "0th": {piexif.ImageIFD.Orientation: 1},
        "Exif": {piexif.ExifIFD.PixelXDimension: 30, piexif.ExifIFD.PixelYDimension: 40},
    }
    for ifd in ("0th", "Exif", "GPS"):
        assert after[ifd] == before[ifd] | changed.get(ifd, {}), ifd
    assert len(reset_exif_orientation_and_size(block, 30, 40)) == len(block)


@pytest.mark.parametrize("block", [CAMERA, little_endian(CAMERA)], ids=["big", "little"])
@settings(deadline=None, max_examples=30)
@given(fields)
def test_texts_are_added_to_the_exif_of_a_photo_and_all_else_is_kept(
    block: bytes, fields: dict[int, bytes]
) -> None:
    added = add_exif_fields(block, fields)
    before, after = piexif.load(block), piexif.load(added)
    assert after["Exif"] == before["Exif"] | fields
    assert after["GPS"] == before["GPS"]
    pointers = {piexif.ImageIFD.ExifTag, piexif.ImageIFD.GPSTag}
    assert {tag: after["0th"][tag] for tag in after["0th"].keys() - pointers} == {
        tag: before["0th"][tag] for tag in before["0th"].keys() - pointers
    }
    kept = fields | ({} if MAKER_NOTE in fields else {MAKER_NOTE: bytes(range(200))})
    assert {tag: parse_raw_exif_tags(added[6:]).get(tag) for tag in kept} == kept


def test_texts_are_added_to_an_exif_that_has_no_exif_directory() -> None:
    block = piexif.dump({"0th": {MODEL: b"Camera 7"}})
    after = piexif.load(add_exif_fields(block, {USER_COMMENT: b"UNICODE\0\0a"}))
    assert after["0th"][MODEL] == b"Camera 7"
    assert after["Exif"] == {USER_COMMENT: b"UNICODE\0\0a"}


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(CAMERA) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 200))
def test_a_damaged_exif_is_repaired_or_refused_and_never_crashes(
    place: int, damage: bytes, cut: int
) -> None:
    block = (CAMERA[:place] + damage + CAMERA[place + len(damage) :])[: len(CAMERA) - cut]
    try:
        upright = reset_exif_orientation_and_size(block, 30, 40)
        add_exif_fields(upright, {USER_COMMENT: b"UNICODE\0\0a"})
    except (ValueError, struct.error):
        return
    assert len(upright) <= len(CAMERA) + 6
