"""Photos of any size at a model's size, and edits of them at their own."""

import io
import warnings

import numpy as np
import piexif
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.images.blend_weights import (
    compute_changed_area_weights,
    compute_inward_feather_weights,
)
from pipelines.images.photo import prepare_photo
from pipelines.images.photo_fitting import FIT_MODES, compute_photo_fitting
from t2i.errors import ArgumentError
from t2i.pictures import save_picture
from tests.pipelines.photos.test_reading import DATE, camera_exif, colourful, wide_gamut_profile

SIDES = st.integers(1, 90)


def bytes_of(image):
    return np.asarray(image).astype(int)


def weights(box, size=32):
    """1 in a box of left, top, right, bottom; else 0."""
    made = torch.zeros(size, size)
    made[box[1] : box[3], box[0] : box[2]] = 1
    return made


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.sampled_from([(32, 32), (24, 40)]), st.sampled_from(FIT_MODES))
@pytest.mark.filterwarnings("ignore:The photo is smaller", "ignore:The edit reaches a side")
def test_every_size_is_fitted_and_put_back_unchanged(width, height, size, fit):
    picture = colourful(width, height)
    photo = prepare_photo(picture, *size, fit)
    assert photo.pixels.shape == (1, 3, *size)
    np.testing.assert_array_equal(bytes_of(photo.paste_edit(photo.image)), bytes_of(picture))
    everywhere = photo.paste_edit(photo.image, torch.ones(size))
    left, top, right, bottom = photo.shown_box
    outside = np.ones((height, width), bool)
    outside[top:bottom, left:right] = False
    np.testing.assert_array_equal(bytes_of(everywhere)[outside], bytes_of(picture)[outside])


@pytest.mark.parametrize(
    ("size", "fit", "description", "box", "frame"),
    [
        ((60, 40), "crop", "60x40 pixels, cropped to the middle 40x40, reduced to 32x32",
         (10, 0, 50, 40), (0, 0, 32, 32)),
        ((40, 80), "pad", "40x80 pixels, reduced to 16x32, padded to 32x32",
         (0, 0, 40, 80), (8, 0, 24, 32)),
        ((40, 80), "stretch", "40x80 pixels, stretched to 32x32",
         (0, 0, 40, 80), (0, 0, 32, 32)),
        ((64, 64), "stretch", "64x64 pixels, reduced to 32x32",
         (0, 0, 64, 64), (0, 0, 32, 32)),
        ((32, 32), "crop", "32x32 pixels", (0, 0, 32, 32), (0, 0, 32, 32)),
    ],
)  # fmt: skip
def test_what_was_done_is_said(size, fit, description, box, frame):
    fitting = compute_photo_fitting(*size, 32, 32, fit)
    assert (fitting.description, fitting.box, fitting.frame) == (description, box, frame)


def test_a_photo_of_the_models_size_is_shown_to_the_bit():
    photo = prepare_photo(colourful(32, 32), 32, 32)
    np.testing.assert_array_equal(bytes_of(photo.image), bytes_of(colourful(32, 32)))


def test_padding_repeats_the_edge_and_is_removed_again():
    photo = prepare_photo(colourful(32, 16), 32, 32, "pad")
    shown = bytes_of(photo.image)
    assert (shown[:8] == shown[8]).all()
    assert (shown[24:] == shown[23]).all()
    assert photo.remove_padding(photo.image).size == (32, 16)


def test_a_smaller_photo_is_enlarged_with_a_warning():
    with pytest.warns(UserWarning, match=r"smaller than the model's 32x32 .*enlarged to 32x32"):
        photo = prepare_photo(colourful(20, 16), 32, 32)
    assert photo.paste_edit(photo.image).size == (20, 16)


def test_an_unknown_fit_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match=r"Got fit='cop'\. Did you mean 'crop'"):
        prepare_photo(colourful(), 32, 32, "cop")


# back at the photo's own size


@pytest.mark.parametrize("fit", FIT_MODES)
def test_only_what_changed_is_put_back_where_it_belongs(fit):
    """A red square of the photo is painted green at the model's size."""
    picture = colourful(192, 128)
    picture.paste("red", (80, 48, 112, 80))
    photo = prepare_photo(picture, 32, 32, fit)
    shown = bytes_of(photo.image)
    is_red = (shown[..., 0] > 180) & (shown[..., 1:].max(axis=2) < 80)
    assert is_red.sum() > 10
    edited = shown.copy()
    edited[is_red] = (0, 200, 0)
    back = bytes_of(photo.paste_edit(Image.fromarray(edited.astype(np.uint8))))
    green = (back[..., 1] > 150) & (back[..., 0] < 100) & (back[..., 2] < 100)
    assert green[56:72, 88:104].all()
    far = np.ones((128, 192), bool)
    far[20:108, 44:148] = False
    np.testing.assert_array_equal(back[far], bytes_of(picture)[far])


def test_all_of_an_image_is_put_back_if_all_is_said_to_have_changed():
    photo = prepare_photo(colourful(64, 64), 32, 32)
    image = Image.new("RGB", (32, 32), (10, 20, 30))
    assert (bytes_of(photo.paste_edit(image, torch.ones(32, 32))) == (10, 20, 30)).all()


@pytest.mark.parametrize(("size", "axis"), [((128, 64), 1), ((64, 128), 0)])
def test_an_edit_ends_softly_at_the_sides_of_a_crop_with_a_warning(size, axis):
    """The photo goes on there, without the edit; at its own sides the edit is whole."""
    picture = Image.new("RGB", size, "white")
    photo = prepare_photo(picture, 32, 32)
    with pytest.warns(UserWarning, match=r"reaches a side at which the photo was cropped .*pad"):
        edited = photo.paste_edit(Image.new("RGB", (32, 32)), torch.ones(32, 32))
    share = 1 - bytes_of(edited)[..., 0] / 255
    along = np.moveaxis(share, axis, 0).mean(axis=1)
    assert (along[:32] == 0).all()
    assert (along[96:] == 0).all()
    assert (along[40:88] == 1).all()
    assert 0.1 < along[32] < 0.7
    assert (np.diff(along[32:40]) >= 0).all()
    assert np.abs(np.diff(along)).max() < 0.7


def test_an_edit_away_from_the_sides_of_a_crop_is_not_warned_about():
    photo = prepare_photo(colourful(128, 64), 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo.paste_edit(
            Image.new("RGB", (32, 32)), compute_inward_feather_weights(weights((3, 0, 29, 32)))
        )


def test_large_photos_are_blended_in_strips(monkeypatch):
    photo = prepare_photo(colourful(96, 80), 32, 32, "stretch")
    image = Image.fromarray(255 - np.asarray(photo.image))
    changed = compute_inward_feather_weights(weights((4, 4, 30, 28)))
    whole = photo.paste_edit(image, changed)
    monkeypatch.setattr("pipelines.images.photo.PIXELS_PER_STRIP", 200)
    assert photo.paste_edit(image, changed).tobytes() == whole.tobytes()


def test_what_is_blended_in_is_opaque_and_the_rest_keeps_its_opacity():
    picture = colourful(32, 32, channels=4)
    photo = prepare_photo(picture, 32, 32)
    edited = photo.paste_edit(Image.new("RGB", (32, 32), "blue"), weights((8, 8, 24, 24)))
    assert (bytes_of(edited)[8:24, 8:24] == (0, 0, 255, 255)).all()
    np.testing.assert_array_equal(bytes_of(edited)[:8], bytes_of(picture)[:8])


def test_what_is_blended_in_has_the_photos_own_colours():
    """The profile of this photo names red what is blue."""
    own = colourful(32, 32)
    own.info["icc_profile"] = wide_gamut_profile()
    photo = prepare_photo(own, 32, 32)
    edited = photo.paste_edit(Image.new("RGB", (32, 32), (250, 0, 0)), weights((8, 8, 24, 24)))
    assert np.abs(bytes_of(edited)[8:24, 8:24] - (0, 0, 250)).max() <= 1
    np.testing.assert_array_equal(bytes_of(edited)[:8], bytes_of(own)[:8])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_date_profile_and_orientation_reach_the_file(tmp_path, suffix):
    stored = colourful(48, 32).transpose(Image.Transpose.ROTATE_90)
    exif = camera_exif(6, stored.size)
    stored.save(tmp_path / "a.png", exif=exif, icc_profile=wide_gamut_profile())
    photo = prepare_photo(tmp_path / "a.png", 32, 32)
    edited = photo.paste_edit(photo.image)
    text = {"parameters": "a cat", "t2i": "{}"}
    path = tmp_path / f"b.{suffix}"
    save_picture(edited, path, text, **edited.info)
    with Image.open(path) as saved:
        saved.load()
        assert saved.size == (48, 32)
        assert saved.info["icc_profile"] == wide_gamut_profile()
        kept = piexif.load(saved.info["exif"])
        texts = getattr(saved, "text", {})
    assert kept["0th"][piexif.ImageIFD.Orientation] == 1
    assert kept["0th"][piexif.ImageIFD.Make] == b"Camera"
    assert kept["Exif"][piexif.ExifIFD.DateTimeOriginal] == DATE
    if suffix == "png":
        assert texts == text
        assert kept["Exif"][piexif.ExifIFD.MakerNote] == bytes(range(64))
    else:
        assert kept["Exif"][piexif.ExifIFD.MakerNote] == b"t2i\0{}"


def test_exif_too_long_for_a_jpeg_is_left_out_with_a_warning(tmp_path):
    long = piexif.dump({"Exif": {piexif.ExifIFD.MakerNote: bytes(65_460)}})
    save_picture(colourful(), tmp_path / "a.png", exif=long + bytes(99))
    with pytest.warns(UserWarning, match="saved without the photo's Exif of 65,"):
        save_picture(colourful(), tmp_path / "a.jpg", exif=long + bytes(99))
    with pytest.warns(UserWarning, match="saved without its text 'parameters'"):
        save_picture(colourful(), tmp_path / "a.jpg", {"parameters": "a" * 90}, exif=long)
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.info["exif"] == long


def test_an_image_of_another_size_is_refused_in_words():
    photo = prepare_photo(colourful(64, 64), 32, 32)
    with pytest.raises(ArgumentError, match="Got an image of 64x64 pixels, expected 32x32"):
        photo.paste_edit(colourful(64, 64))
    with pytest.raises(ArgumentError, match=r"Got changed of shape \(16, 16\)"):
        photo.paste_edit(photo.image, torch.ones(16, 16))


# weights


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=30, max_size=30), st.integers(1, 4))
def test_a_soft_edge_lies_inside_of_its_mask_and_reaches_all_of_it(data, width):
    mask = torch.tensor([byte > 120 for byte in data]).view(5, 6).float()
    mask = mask.repeat_interleave(3, 0).repeat_interleave(3, 1)
    soft = compute_inward_feather_weights(mask, width)
    assert torch.equal(soft > 0, mask > 0)
    assert float(soft.max()) == float(mask.max())
    assert ((soft >= 0) & (soft <= 1)).all()


def test_a_soft_edge_rises_evenly_and_not_at_the_border_of_the_picture():
    mask = torch.zeros(16, 16)
    mask[:, 6:] = 1
    row = compute_inward_feather_weights(mask, 3)[8]
    assert row.tolist() == [0.0] * 6 + [0.25, 0.5, 0.75] + [1.0] * 7


def test_a_detail_that_only_the_photo_has_changes_with_what_it_touches():
    """The whiskers of a cat, which its reproduction lacks; not those of another cat."""
    background = Image.new("RGB", (64, 64), "blue")
    reproduction = background.copy()
    for left in (8, 44):
        reproduction.paste("orange", (left, 20, left + 10, 40))
    photo = reproduction.copy()
    for left in (18, 54):
        photo.paste("white", (left, 28, left + 4, 32))
    image = reproduction.copy()
    image.paste("brown", (8, 20, 18, 40))
    found = compute_changed_area_weights(image, reproduction, photo)
    assert (found[22:38, 10:16] == 1).all()
    assert (found[29:31, 18:22] > 0.4).all()
    assert (found[:, 40:] == 0).all()
    assert (compute_changed_area_weights(image, reproduction)[29:31, 21] == 0).all()


def test_nothing_changed_is_no_weight():
    noisy = bytes_of(colourful(32, 32)) // 2 + 40
    near = (noisy + np.random.default_rng(1).integers(-8, 9, noisy.shape)).astype(np.uint8)
    reference = Image.fromarray(noisy.astype(np.uint8))
    assert not compute_changed_area_weights(Image.fromarray(near), reference).any()


def test_a_thumbnail_of_the_unedited_photo_is_not_kept():
    photo = Image.open(io.BytesIO(to_jpeg(colourful(32, 32), camera_exif())))
    edited = prepare_photo(photo, 32, 32).paste_edit(Image.new("RGB", (32, 32)))
    assert piexif.load(edited.info["exif"])["thumbnail"] is None


def to_jpeg(image, exif):
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif)
    return data.getvalue()
