"""Masks, crops and fills of A1111's img2img."""

import numpy as np
import pytest
from PIL import Image

from t2i.errors import ArgumentError
from t2i.server.compat.a1111.request.bodies import Img2ImgBody
from t2i.server.compat.a1111.request.inpainting import (
    InpaintingPlan,
    crop_to_aspect_if_asked,
    find_mask_box,
    plan_inpainting,
)
from t2i.server.compat.a1111.request.mask_filling import fill_mask_from_surroundings

SHARP = {"mask_blur": 0, "inpainting_fill": 1}


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def square(
    width: int = 60, height: int = 40, box: tuple[int, ...] = (10, 10, 20, 20)
) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(axis=2)


def paste_black(plan: InpaintingPlan) -> Image.Image:
    return plan.paste(Image.new("RGB", plan.size))


@pytest.mark.parametrize("only_masked", [True, False])
def test_outside_of_the_mask_nothing_changes(only_masked: bool) -> None:
    picture, mask = gradient(), square()
    plan = plan_inpainting(picture, mask, Img2ImgBody(**SHARP, inpaint_full_res=only_masked))
    result = changed(picture, paste_black(plan))
    assert np.array_equal(result, np.asarray(mask) > 0)


def test_only_the_part_around_the_mask_is_drawn_at_the_full_size() -> None:
    body = Img2ImgBody(**SHARP, inpaint_full_res_padding=2, width=56, height=56)
    plan = plan_inpainting(gradient(), square(), body)
    assert plan.box == (8, 8, 22, 22)
    image, mask = plan.build_inputs()
    assert image.size == mask.size == (56, 56)
    assert plan.paste(image).size == (60, 40)


def test_the_whole_picture_is_drawn_without_inpaint_full_res() -> None:
    body = Img2ImgBody(**SHARP, inpaint_full_res=False, width=30, height=20)
    plan = plan_inpainting(gradient(), square(), body)
    assert plan.box is None
    assert paste_black(plan).size == (30, 20)


def test_inverted_mask_keeps_its_white_part() -> None:
    picture, mask = gradient(), square()
    plan = plan_inpainting(picture, mask, Img2ImgBody(**SHARP, inpainting_mask_invert=1))
    result = changed(picture, paste_black(plan))
    assert not result[np.asarray(mask) > 0].any()


def test_blur_blends_across_the_edge() -> None:
    picture = Image.new("RGB", (60, 40), (200, 200, 200))
    plan = plan_inpainting(picture, square(), Img2ImgBody(inpainting_fill=1, mask_blur=2))
    values = np.asarray(paste_black(plan))[15, :, 0]
    assert values[0] == 200
    assert (np.diff(values[:14].astype(int)) <= 0).all()
    assert 0 < values[9] < 200


def test_transparent_mask_is_read_by_its_alpha() -> None:
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (10, 10, 20, 20))
    plan = plan_inpainting(gradient(), clear, Img2ImgBody(**SHARP))
    assert plan.weights.getbbox() == (10, 10, 20, 20)


def test_box_has_the_shape_of_the_size_where_there_is_room() -> None:
    assert find_mask_box(square(), 0, (64, 64)) == (10, 10, 20, 20)
    assert find_mask_box(square(), 0, (128, 64)) == (5, 10, 25, 20)
    assert find_mask_box(square(box=(0, 0, 10, 10)), 0, (128, 64)) == (0, 0, 20, 10)
    assert find_mask_box(square(), 0, (64, 640)) == (10, 0, 20, 40)
    assert find_mask_box(square(), 99, (64, 64)) == (0, 0, 60, 40)


def test_resize_mode_one_crops_the_middle() -> None:
    cropped = crop_to_aspect_if_asked(gradient(), Img2ImgBody(resize_mode=1, width=20, height=20))
    assert cropped.size == (40, 40)
    assert cropped.getpixel((0, 0)) == gradient().getpixel((10, 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inpainting_fill": 2}, "inpainting_fill=2, which is not done here"),
        ({"resize_mode": 2, "inpaint_full_res": False}, "resize_mode=2, which is not done here"),
        ({"mask_blur": -1}, "mask_blur_x=-1.0: expected pixels"),
        ({"inpaint_full_res_padding": -1}, "inpaint_full_res_padding=-1: expected a whole number"),
        ({"width": 0}, "width=0: expected pixels, from 1 on"),
        ({"width": 100_000, "height": 100_000}, "a picture has at most 64 million pixels"),
    ],
)
def test_settings_that_are_not_done_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan_inpainting(gradient(), square(), Img2ImgBody(**values))


def test_black_mask_is_refused() -> None:
    with pytest.raises(ArgumentError, match="mask without white: nothing of the picture"):
        plan_inpainting(gradient(), Image.new("L", (60, 40)), Img2ImgBody())


# filling


def test_fill_keeps_known_pixels_and_forgets_the_masked_ones() -> None:
    picture, mask = gradient(), square()
    other = picture.copy()
    other.paste((255, 0, 255), (10, 10, 20, 20))
    filled = fill_mask_from_surroundings(picture, mask)
    assert np.array_equal(changed(picture, filled) & (np.asarray(mask) == 0), np.zeros((40, 60)))
    assert filled.tobytes() == fill_mask_from_surroundings(other, mask).tobytes()


def test_fill_of_one_colour_is_that_colour() -> None:
    picture = Image.new("RGB", (37, 23), (10, 200, 90))
    assert fill_mask_from_surroundings(picture, square(37, 23)).getcolors() == [
        (37 * 23, (10, 200, 90))
    ]


def test_fill_continues_the_colours_around_it() -> None:
    picture, mask = gradient(), square()
    inside, before = (
        np.asarray(one)[10:20, 10:20].astype(float)
        for one in (fill_mask_from_surroundings(picture, mask), picture)
    )
    assert (np.diff(inside[5, :, 0]) >= 0).all()
    assert np.abs(inside.mean(axis=(0, 1)) - before.mean(axis=(0, 1))).max() < 10


def test_fill_without_surroundings_is_gray() -> None:
    filled = fill_mask_from_surroundings(gradient(9, 5), Image.new("L", (9, 5), 255))
    assert filled.getcolors() == [(45, (128, 128, 128))]
