"""What is painted white is asked for, in whatever mode of whatever program the mask was saved."""

import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.masks import INVERT_ALPHA_CODE, find_mask_mistake, remove_mask_transparency
from t2i.pictures import open_picture
from train.data.decode import decode_to_rgb_or_rgba

SIZE = (24, 16)
BOX = (6, 4, 18, 12)
BELOW = [(255, 255, 255), (0, 0, 0), (200, 30, 90)]
"""Colours that programs leave below what is clear."""
MODES = ["1", "L", "P", "RGB", "I;16"]
CLEAR_MODES = ["LA", "RGBA", "P clear", "L clear", "RGB clear", "I;16 clear"]


def opaque(mode: str) -> Image.Image:
    """A white box on black."""
    mask = Image.new("L", SIZE)
    mask.paste(255, BOX)
    if mode == "I;16":
        return Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    return mask.convert(mode)


def clear(mode: str, below: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A white box on a clear layer."""
    box = opaque("L")
    if mode in ("LA", "RGBA"):
        layer = Image.new("RGB", SIZE, below)
        layer.paste("white", mask=box)
        layer.putalpha(box)
        return layer.convert(mode)
    mask = opaque("L").point(lambda value: 255 if value else 7)
    if mode.startswith("I;16"):
        mask = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    elif mode.startswith("P"):
        mask = Image.new("P", SIZE, 7)
        mask.putpalette([255] * 768)
        mask.paste(9, BOX)
    else:
        mask = mask.convert(mode.split()[0])
    mask.info["transparency"] = (7, 7, 7) if mode.startswith("RGB") else 7
    if mode.startswith("I;16"):
        mask.info["transparency"] = 7 * 257
    return mask


def white_of(mask: Image.Image) -> np.ndarray:
    """What the pipelines draw anew, by diffusers' own way from here on."""
    size = {"height": mask.height, "width": mask.width}
    masks = VaeImageProcessor(
        vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True
    )
    return masks.preprocess(mask, **size)[0, 0].numpy() == 1


WHITE = white_of(opaque("L"))
EVERY = {mode: opaque(mode) for mode in MODES} | {mode: clear(mode) for mode in CLEAR_MODES}


@pytest.mark.parametrize("mask", EVERY.values(), ids=EVERY)
def test_a_white_box_is_that_box_in_every_mode(mask: Image.Image) -> None:
    assert np.array_equal(white_of(remove_mask_transparency(mask)), WHITE)
    assert find_mask_mistake(mask) is None


@pytest.mark.parametrize("mask", EVERY.values(), ids=EVERY)
def test_the_file_of_it_is_read_alike_by_the_command_line_and_by_training(
    mask: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "mask.png"
    mask.save(path, transparency=mask.info.get("transparency"))
    for read in (open_picture(path), decode_to_rgb_or_rgba(path.read_bytes(), "its mask")):
        assert np.array_equal(white_of(remove_mask_transparency(read)), WHITE)


@pytest.mark.parametrize("below", BELOW)
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_lies_below_what_is_clear_has_no_say(mode: str, below: tuple[int, int, int]) -> None:
    assert np.array_equal(white_of(remove_mask_transparency(clear(mode, below))), WHITE)


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=4 * 16, max_size=4 * 16), st.sampled_from(["1", "L", "LA", "RGB", "RGBA"])
)
def test_a_mask_that_nothing_shines_through_is_the_one_that_diffusers_gets(
    data: bytes, mode: str
) -> None:
    mask = Image.frombytes("RGBA", (4, 4), data)
    mask.putalpha(255)
    mask = mask.convert(mode)
    assert remove_mask_transparency(mask) is mask


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=4 * 16, max_size=4 * 16))
def test_nothing_is_whiter_than_it_was_painted_nor_than_it_covers(data: bytes) -> None:
    mask = Image.frombytes("RGBA", (4, 4), data)
    gray = np.asarray(remove_mask_transparency(mask).convert("L")).astype(int)
    assert (gray <= np.asarray(mask.getchannel("A")).astype(int) + 1).all()
    assert (gray <= np.asarray(mask.convert("RGB").convert("L")).astype(int) + 1).all()


def picture(hole: bool = True, gray: bool = False) -> Image.Image:
    """A picture as a camera or a model makes it, with a clear hole or without."""
    across, down = np.meshgrid(np.arange(64), np.arange(48))
    channels = [across * 4, down * 5, 255 - across * 2]
    if gray:
        channels = [60 + across * 2] * 3
    shown = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    if hole:
        cover = Image.new("L", shown.size, 255)
        cover.paste(0, (20, 10, 40, 30))
        shown.putalpha(cover)
    return shown


@pytest.mark.parametrize(
    ("mask", "oddity"),
    [
        (picture(), "hole"),
        (picture(gray=True), "hole"),
        (picture(hole=False), None),
        (Image.new("L", SIZE, 255), "white"),
        (Image.new("L", SIZE, 0), "black"),
        (Image.new("I;16", SIZE, 200), "black"),
        (Image.new("RGBA", SIZE, (255, 255, 255, 0)), "black"),
        (Image.new("RGBA", SIZE, (255, 255, 255, 255)), "white"),
        (clear("RGBA", (0, 0, 0)), None),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, Image.Image) else value.mode,
)
def test_what_may_not_be_meant_is_found(mask: Image.Image, oddity: str | None) -> None:
    assert find_mask_mistake(mask) == oddity


def test_a_soft_brush_is_no_picture() -> None:
    soft = Image.radial_gradient("L").resize((64, 64))
    brush = Image.new("RGB", soft.size, "white")
    brush.putalpha(soft.point(lambda value: 255 - value))
    assert find_mask_mistake(brush) is None


def test_what_is_said_of_a_hole_makes_its_mask(tmp_path: Path) -> None:
    picture().save(tmp_path / "hole.png")
    command = INVERT_ALPHA_CODE.replace("PICTURE", "hole.png")
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    made = open_picture(tmp_path / "mask.png")
    expected = np.zeros((48, 64), dtype=bool)
    expected[10:30, 20:40] = True
    assert np.array_equal(white_of(remove_mask_transparency(made)), expected)


def test_every_mask_is_read_in_this_way(repo: Path) -> None:
    """Its gray is taken after `remove_mask_transparency` alone.

    `check_padding_mask_crop` is given what was painted.
    """
    bare = [
        f"{path.relative_to(repo)}: {line.strip()}"
        for folder in ("t2i", "pipelines", "train")
        for path in sorted((repo / folder).rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(r'convert\("(L|1)"\)', line) and "remove_mask_transparency(" not in line
    ]
    assert bare == [
        # The gray of an image, on which colours are laid.
        't2i/attention/probes/segmentation.py: base = image.convert("L").convert("RGB")',
        # A1111's own meaning: a transparent mask is read by its alpha, which is gray here.
        't2i/server/compat/a1111/request/inpainting.py: return mask.convert("L")'
        ".point(lambda value: 255 if value >= MASK_THRESHOLD else 0)",
        "t2i/server/compat/a1111/request/mask_filling.py: known_YX1 = "
        '(np.asarray(mask.convert("L")) < 128).astype(np.float32)[..., None]',
        'pipelines/images/inpaint_start.py: if mask_image.convert("L").getbbox() is None:',
        # The gray of a photo, whose transparency is put aside before.
        'pipelines/images/photo_reading.py: turned = convert_to_srgb(name, turned.convert("L") if '
        'mode == "LA" else turned, profile)',
    ]


def test_saved_as_webp_the_box_stays_a_box(tmp_path: Path) -> None:
    data = BytesIO()
    clear("RGBA").save(data, "WEBP", lossless=True)
    assert np.array_equal(
        white_of(remove_mask_transparency(decode_to_rgb_or_rgba(data.getvalue(), "a"))), WHITE
    )
