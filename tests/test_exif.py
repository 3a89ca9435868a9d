"""The texts of a JPEG or WebP, read as A1111, Forge and sd-prompt-reader read them: by piexif."""

from pathlib import Path

import piexif
import piexif.helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.cli.metadata.exif import parse_exif
from t2i.exif import EXIF_IFD, MAKER_NOTE, UNDEFINED, USER_COMMENT, build_exif_block
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
    assert parse_exif(block.removeprefix(b"Exif\0\0")) == fields
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
    assert parse_exif(data[6:]) == {USER_COMMENT: b"UNICODE\0\0a", MAKER_NOTE: b"t2i\0{}"}
