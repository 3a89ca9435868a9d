"""`t2i hint`: the file that it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from t2i.controls.hints import make_hint
from t2i.scenes.hints import get_segment_colour
from tests.cli.command import Cli


@pytest.fixture(scope="module")
def square():
    picture = Image.new("RGB", (100, 120), (40, 60, 90))
    ImageDraw.Draw(picture).rectangle((20, 30, 59, 69), fill=(220, 200, 60))
    return picture


def test_the_command_writes_a_hint(cli: Cli, square, tmp_path):
    square.save("square.jpg", quality=100)
    done = cli("hint", "canny", "square.jpg")
    assert done.code == 0
    assert done.out.strip() == "square-canny.png"
    expected = make_hint("canny", "square.jpg").tobytes()
    assert Image.open("square-canny.png").tobytes() == expected
    found = cli(
        *("hint", "colours", "square.jpg", "--out", "c.webp", "--blocks", "4"),
        *("--resolution", "50", "--format", "json"),
    ).json()
    facts = {"path": "c.webp", "kind": "colours", "width": 50, "height": 60, "empty": False}
    assert found == facts


def test_the_command_refuses_what_it_cannot_do(cli: Cli, square, tmp_path):
    square.save("square.png")
    Image.new("RGB", (20, 20)).save("flat.png")
    done = cli("hint", "canny", "flat.png")
    assert "Nothing was found in the picture" in done.err
    (tmp_path / "folder.png").mkdir()
    for arguments, code, message in (
        (("canny", "flat.png"), 5, "flat-canny.png exists and is not replaced"),
        (("canny", "square.png", "--out", "x.gif"), 2, "expected a file name that ends in .png"),
        (("canny", "square.png", "--out", "folder.png"), 5, "folder.png is a folder"),
        (("canny", "square.png", "--blur", "3"), 2, "Got blur for the hint canny"),
        (("segments", "square.png", "--low", "3"), 2, "--low for the hint segments, which has no"),
        (
            ("segments", "square.png", "--resolution", "-4"),
            2,
            "Got resolution=-4, expected a whole",
        ),
        (("edges", "square.png"), 2, "expected one of canny, soft-edge, lines, colours"),
        (("canny", "none.png"), 4, "none.png"),
    ):
        done = cli("hint", *arguments)
        assert (done.code, message in done.err) == (code, True), done.err
    assert cli("hint", "canny", "square.png", "--out", "flat-canny.png", "--overwrite").code == 0
    assert Image.open("flat-canny.png").size == square.size


def test_the_layout_of_an_image_is_a_control_of_the_next(cli: Cli) -> None:
    draw = ("--seed", "8", "--model", "embedded")
    assert cli("generate", "a cat", *draw, "--out", "cat.png").code == 0
    assert cli("hint", "segments", "cat.png").out.strip() == "cat-segments.png"
    layout = np.asarray(Image.open("cat-segments.png"))
    assert {*map(tuple, layout.reshape(-1, 3))} == {(0, 0, 0), get_segment_colour("cat")}
    control = ("--control", "segments:cat-segments.png")
    done = cli("generate", "a purple cat", *draw, *control, "--out", "purple.png")
    assert done.code == 0, done.err
    (recorded,) = json.loads(Image.open("purple.png").info["t2i"])["request"]["controls"]
    assert recorded["model"]["path"] == "segments"
    looked = cli("inspect", "a purple cat", *draw, *control, "--steps", "2", "--out", "maps.png")
    assert (looked.code, "in control" in looked.out) == (0, False), looked.err  # no cross-attention
    assert cli("generate", "--from", "purple.png", "--out", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("purple.png").read_bytes()
    refused = cli("generate", "a cat", "--control", "segment:cat-segments.png")
    assert refused.code == 2
    assert "Those of t2i: Did you mean 'segments'?" in refused.err
