"""Hints of pictures: what they find on drawings whose edges are known, in Python and by command."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from t2i.controls.hints import HINT_KINDS, make_hint
from t2i.errors import ArgumentError, DataError

BOX = (20, 30, 59, 69)
"""Left, top, right and bottom of a square in a picture of 100 x 120."""


@pytest.fixture(scope="module")
def square():
    picture = Image.new("RGB", (100, 120), (40, 60, 90))
    ImageDraw.Draw(picture).rectangle(BOX, fill=(220, 200, 60))
    return picture


def near_outline(distance):
    """True within so many pixels of the square's outline."""
    rows, columns = np.mgrid[:120, :100]
    left, top, right, bottom = BOX
    outside = np.maximum.reduce([left - columns, columns - right, top - rows, rows - bottom])
    return np.abs(outside - 0.5) <= distance


def test_canny_finds_the_outline_in_black_and_white(square):
    edges = np.asarray(make_hint("canny", square))
    assert edges.shape == (120, 100)
    assert set(np.unique(edges)) == {0, 255}
    assert not edges[~near_outline(2)].any()
    assert 130 <= (edges == 255).sum() <= 200  # four sides of 40, one pixel wide


def test_cannys_thresholds_leave_out_faint_edges(square):
    faint = Image.blend(square, Image.new("RGB", square.size, (40, 60, 90)), 0.9)
    assert not np.asarray(make_hint("canny", faint)).any()
    assert np.asarray(make_hint("canny", faint, low=10, high=40)).any()


def test_soft_edges_fall_off_from_the_outline(square):
    edges = np.asarray(make_hint("soft-edge", square))
    assert edges.max() == 255
    assert len(np.unique(edges)) > 5
    assert not edges[~near_outline(8)].any()
    means = [edges[near_outline(d + 0.5) & ~near_outline(d - 0.6)].mean() for d in (1, 3, 5)]
    assert means[0] > means[1] > means[2]
    wide = np.asarray(make_hint("soft-edge", square, blur=4))
    assert (wide > 0).sum() > (edges > 0).sum()


def test_lines_are_dark_strokes_and_no_borders_of_areas(square):
    drawing = square.copy()
    ImageDraw.Draw(drawing).line((70, 10, 90, 110), fill=(10, 10, 10), width=3)
    lines = np.asarray(make_hint("lines", drawing))
    stroke = np.asarray(drawing).max(axis=-1) == 10
    assert lines[stroke].min() == 255
    assert not lines[~stroke].any()
    assert not np.asarray(make_hint("lines", square)).any()
    wide = square.copy()
    ImageDraw.Draw(wide).line((75, -20, 75, 140), fill=(10, 10, 10), width=15)
    assert not np.asarray(make_hint("lines", wide)).any()
    assert np.asarray(make_hint("lines", wide, width=17)).any()


def test_colours_are_the_means_of_squares():
    noise = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    made = np.asarray(make_hint("colours", Image.fromarray(noise), blocks=4))
    assert made.shape == noise.shape
    means = noise.reshape(4, 16, 6, 16, 3).mean(axis=(1, 3))
    assert np.abs(made[::16, ::16].astype(float) - means).max() <= 0.5
    assert (made == made[::16, ::16].repeat(16, axis=0).repeat(16, axis=1)).all()
    # no more squares than pixels
    tiny = Image.fromarray(noise[:2, :3])
    assert np.array_equal(np.asarray(make_hint("colours", tiny)), noise[:2, :3])


@pytest.mark.parametrize("kind", HINT_KINDS)
def test_pictures_of_any_mode_and_size_have_hints(kind, square, tmp_path):
    square.save(tmp_path / "square.png")
    whole = make_hint(kind, square)
    assert make_hint(kind, tmp_path / "square.png").tobytes() == whole.tobytes()
    for mode in ("L", "CMYK", "P", "1", "I;16"):
        assert make_hint(kind, square.convert("L").convert(mode)).size == square.size
    clear = square.copy()
    clear.putalpha(0)
    assert not any(np.asarray(make_hint(kind, clear)).ravel())
    large = make_hint(kind, square.resize((1000, 1200)))
    assert large.size == (512, 614)
    assert make_hint(kind, square, resolution=50).size == (50, 60)
    assert make_hint(kind, square.resize((1000, 1200)), resolution=None).size == (1000, 1200)
    assert make_hint(kind, Image.new("RGB", (1, 3))).size == (1, 3)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("cany", {}, "Got the hint 'cany'. Did you mean 'canny'"),
        ("canny", {"blur": 3}, "Got blur for the hint canny, which has low and high to set"),
        ("canny", {"low": 300}, "Got low=300 and high=200"),
        ("canny", {"low": float("nan")}, "Got low=nan, expected a number from 0"),
        ("soft-edge", {"blur": 0}, r"Got blur=0, expected a number from 0\.1 to 100"),
        ("lines", {"width": 2.5}, r"Got width=2\.5, expected a whole number from 1"),
        ("colours", {"blocks": True}, "Got blocks=True, expected a whole number"),
        ("canny", {"resolution": 3}, "Got resolution=3, expected a whole number from 16"),
    ],
)
def test_what_no_hint_can_be_made_with_is_refused(square, kind, settings, message):
    with pytest.raises(ArgumentError, match=message):
        make_hint(kind, square, **settings)


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="Got a int to make a hint of"):
        make_hint("canny", 3)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        make_hint("canny", tmp_path / "nowhere.png")


def test_without_opencv_the_command_to_install_it_is_said(square, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ArgumentError, match=r"needs OpenCV.*pip install .*\[hints\]"):
        make_hint("canny", square)
