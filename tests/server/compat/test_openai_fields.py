"""Bodies of OpenAI's API become fields of a job, or are refused by name."""

import numpy as np
import pytest
from PIL import Image

from t2i.errors import ArgumentError, DataError
from t2i.server.compat.openai.image_schemas import EditForm, GenerationBody, ImageBody
from t2i.server.compat.openai.job_fields import (
    NEUTRAL_VALUES_BY_FIELD,
    build_image_fields,
    parse_output_format,
)
from t2i.server.compat.openai.transparent_masks import build_edit_mask


def test_a_prompt_alone_leaves_everything_to_the_model() -> None:
    fields = build_image_fields(GenerationBody(prompt="a (red) cat"), "embedded")
    assert fields == {"prompt": "a (red) cat", "model": "embedded", "num": 1, "grammar": "plain"}


def test_sizes_number_and_own_fields_become_a_job() -> None:
    body = GenerationBody(
        prompt="a cat", n=3, size="512x384", seed=7, steps=2, guidance_scale=4, sampler="ddim"
    )
    fields = build_image_fields(body, "m")
    assert (fields["width"], fields["height"], fields["num"]) == (512, 384, 3)
    assert (fields["seed"], fields["steps"], fields["sampler"]) == (7, 2, "ddim")
    assert "width" not in build_image_fields(GenerationBody(prompt="a", size="auto"), "m")


def test_edit_takes_a_strength() -> None:
    assert build_image_fields(EditForm(prompt="a", strength=0.4), "m")["strength"] == 0.4


ACTING = {
    "background": "transparent",
    "quality": "high",
    "moderation": "none",
    "style": "vivid",
    "complexity": "low",
    "frame_count": 4,
    "frame_duration_ms": 100,
    "svg": {"model": "m"},
    "input_fidelity": "high",
}


@pytest.mark.parametrize("name", ACTING)
def test_each_field_that_is_not_done_is_refused_by_name(name: str) -> None:
    for neutral in NEUTRAL_VALUES_BY_FIELD[name]:
        build_image_fields(EditForm(prompt="a", **{name: neutral}), "m")
    with pytest.raises(ArgumentError, match=f"Got {name}=.*, which is not done here: "):
        build_image_fields(EditForm(prompt="a", **{name: ACTING[name]}), "m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "big"}, "Got size 'big': expected width x height"),
        ({"output_format": "gif"}, "output_format='gif': expected png, jpeg, webp"),
        ({"output_compression": 50}, "output_compression=50 with output_format=png"),
        (
            {"output_format": "jpeg", "response_format": "url"},
            "response_format=url with output_format=jpeg",
        ),
        ({"partial_images": 2}, "partial_images=2 without stream"),
        ({"stream": True, "response_format": "url"}, "response_format=url with stream"),
        ({"cfg": 7}, "cfg=7: no such field is known here"),
    ],
)
def test_values_that_are_not_done_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_image_fields(GenerationBody(prompt="a", **values), "m")


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_output_formats(name: str) -> None:
    assert parse_output_format(ImageBody(prompt="a", output_format=name)) == name


# masks


def transparent(size: tuple[int, int] = (8, 6)) -> Image.Image:
    picture = Image.new("RGBA", size, (9, 9, 9, 255))
    picture.paste((9, 9, 9, 0), (2, 2, 5, 4))
    return picture


def test_transparent_part_of_the_mask_is_white_in_ours() -> None:
    mask = build_edit_mask(Image.new("RGB", (8, 6)), transparent())
    assert mask is not None
    assert mask.mode == "L"
    assert mask.getbbox() == (2, 2, 5, 4)
    assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_transparency_of_the_picture_counts_without_a_mask() -> None:
    mask = build_edit_mask(transparent(), None)
    assert mask is not None
    assert mask.getbbox() == (2, 2, 5, 4)
    assert build_edit_mask(Image.new("RGB", (8, 6)), None) is None
    assert build_edit_mask(Image.new("RGBA", (8, 6), (1, 2, 3, 255)), None) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (transparent((4, 4)), "mask of 4x4 for a picture of 8x6: expected the same size"),
        (Image.new("L", (8, 6), 255), "mask without transparency"),
        (Image.new("RGBA", (8, 6), (0, 0, 0, 255)), "mask without transparency"),
    ],
)
def test_masks_that_mark_nothing_are_refused(mask: Image.Image, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_edit_mask(Image.new("RGB", (8, 6)), mask)
