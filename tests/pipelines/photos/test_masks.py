"""Edits of a photo under a mask: outside of it every pixel is the photo's own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipelines.images.photo import prepare_photo
from pipelines.inversion.methods import INVERSION_METHODS
from pipelines.prompt_to_prompt.photo_blending import (
    KeepUnmaskedOnPathCallback,
    compute_changed_pixel_weights,
    restore_unchanged_pixels,
)
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from t2i.attention import Replace
from t2i.errors import ArgumentError, DataError
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from tests.denoiser.test_sd import overflowing_vae
from tests.pipelines.photos.test_reading import camera_exif, colourful
from tests.sweeps import sweep
from tests.tiny import tiny_sd_components, tiny_sdxl_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

RUN = {"num_inference_steps": 3, "guidance_scale": 3.0, "seed": 1}
BOX = (16, 24, 72, 60)
"""Of a photo of 96 x 96, of which the tiny model is shown 32 x 32."""


def bytes_of(image):
    return np.asarray(image).astype(int)


def mask_of(size=(96, 96), box=BOX):
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "method", sweep(INVERSION_METHODS, quick=["direct", "edit-friendly", "bdia"])
)
def test_outside_of_the_mask_every_target_has_the_photos_own_pixels(pipe, method):
    photo = colourful(96, 96)
    method = "null-text:inner_steps=2" if method == "null-text" else method
    source = pipe.invert(photo, "a red cat", method, mask=mask_of(), **RUN)
    outside = source.mask[0, 0].numpy() == 0
    assert 0.5 < outside.mean() < 0.9
    assert outside.tolist() == (~np.asarray(mask_of((32, 32), (5, 8, 24, 20)), bool)).tolist()
    for image in pipe(source, ["a red dog", "a blue picture"]).images[1:]:
        own, edited = bytes_of(source.photo.image), bytes_of(image)
        np.testing.assert_array_equal(edited[outside], own[outside])
        assert (edited[~outside] != own[~outside]).any(axis=1).mean() > 0.9
        back, whole = bytes_of(source.paste_edit(image)), bytes_of(photo)
        inside = np.asarray(mask_of(), bool)
        np.testing.assert_array_equal(back[~inside], whole[~inside])
        assert (back[inside] != whole[inside]).any(axis=1).mean() > 0.7


def test_in_half_precision_the_pixels_are_the_photos_too():
    pipe = PromptEditPipeline(**tiny_sd_components()).to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    source = pipe.invert(colourful(32, 32), "a cat", mask=mask_of((32, 32), (4, 4, 20, 30)), **RUN)
    outside = source.mask[0, 0].numpy() == 0
    image = pipe(source, "a dog").images[1]
    np.testing.assert_array_equal(bytes_of(image)[outside], bytes_of(colourful(32, 32))[outside])


@pytest.mark.parametrize("method", ["ddim", "direct", "edit-friendly"])
def test_the_latents_follow_the_path_outside_of_the_mask_at_every_step(pipe, method):
    source = pipe.invert(colourful(32, 32), "a cat", method, mask=np.eye(32) > 0, **RUN)
    keep = torch.eye(8)[None, None] == 0
    seen = []

    def watch(_pipe, step, _timestep, tensors):
        path = source.path_latents_after_step(step)
        seen.append(
            torch.equal(tensors["latents"][keep.expand(1, 4, 8, 8)], path[keep.expand_as(path)])
        )
        assert not torch.equal(tensors["latents"], path)
        return {}

    pipe(source, "a dog", edits=[Replace()], callback_on_step_end=watch)
    assert seen == [True] * 3


def test_the_path_beside_a_replayed_source_is_that_of_the_inversion(pipe):
    """`ddim` pins no source: what is kept outside of a mask is the photo's path all the same."""
    masked = pipe.invert(colourful(32, 32), "a cat", "ddim", mask=np.eye(32) > 0, **RUN)
    pinned = pipe.invert(colourful(32, 32), "a cat", "direct", **RUN)
    for step in range(3):
        assert torch.equal(masked.path_latents_after_step(step), pinned.latents_after_step(step))
    assert not torch.equal(masked.latents, pinned.latents)


def test_a_folder_keeps_photo_mask_and_metadata(pipe, tmp_path):
    photo = colourful(96, 80)
    photo.info |= {"exif": camera_exif(), "icc_profile": b""}
    folder = tmp_path / "source"
    kept = pipe.invert(photo, "a red cat", folder=folder, mask=mask_of((96, 80)), fit="pad", **RUN)
    again = load_recorded_source(folder)
    assert again.photo.fitting == kept.photo.fitting
    assert again.photo.exif == kept.photo.exif != b""
    images = [pipe(one, "a red dog").images[1] for one in (kept, again)]
    assert images[0].tobytes() == images[1].tobytes()
    backs = [one.paste_edit(image) for one, image in zip((kept, again), images, strict=True)]
    assert backs[0].tobytes() == backs[1].tobytes()
    assert backs[0].info == backs[1].info


def test_an_edit_of_an_edit_is_put_back_with_both_changes(pipe):
    """What the first edit changed is no part of the photo, though the second does not touch it."""
    photo = colourful(96, 96)
    source = pipe.invert(photo, "a red cat", mask=mask_of(), **RUN)
    first = pipe.remember_target(source, "a red dog")
    outside = source.mask[0, 0].numpy() == 0
    own = bytes_of(source.photo.image)
    np.testing.assert_array_equal(bytes_of(first.image)[outside], own[outside])
    assert first.paste_edit(first.image).tobytes() == source.paste_edit(first.image).tobytes()
    inside = np.asarray(mask_of(), bool)
    changed = (bytes_of(first.paste_edit(first.image)) != bytes_of(photo)).any(axis=2)
    assert changed[inside].mean() > 0.7
    assert not changed[~inside].any()


def test_a_changed_photo_in_a_folder_is_refused(pipe, tmp_path):
    folder = tmp_path / "source"
    pipe.invert(colourful(96, 96), "a red cat", folder=folder, **RUN)
    end = folder / "ended.safetensors"
    data = bytearray(end.read_bytes())
    data[data.index(colourful(96, 96).tobytes()[:64])] ^= 1
    end.write_bytes(data)
    with pytest.raises(DataError, match=r"ended.safetensors has changed"):
        load_recorded_source(folder)


def test_a_generated_source_has_nothing_to_be_put_back_into(pipe):
    source = pipe.remember("a red cat", **RUN)
    with pytest.raises(ArgumentError, match="This source is no photo, but generated"):
        source.paste_edit(source.image)


def test_weights_of_zero_keep_a_photo_whatever_was_decoded():
    photo = prepare_photo(colourful(8, 8), 8, 8, mask=mask_of((8, 8), (2, 2, 6, 6)))
    decoded = torch.full((2, 3, 8, 8), 3.0)
    everywhere = torch.ones(2, 1, 8, 8)
    restored = restore_unchanged_pixels(decoded, photo.pixels, everywhere, photo.mask_pixels)
    outside = (photo.mask_pixels == 0).expand_as(restored)
    assert torch.equal(restored[outside], photo.pixels.expand_as(restored)[outside])
    assert (restored[..., 3:5, 3:5] > 0.999).all()


def test_pixels_of_unchanged_latents_weigh_nothing():
    source = torch.randn(1, 4, 4, 4)
    target = source.repeat(2, 1, 1, 1)
    target[1, 2, 0, 0] += 1e-3
    weights = compute_changed_pixel_weights(target, source, (16, 16))
    assert not weights[0].any()
    assert (weights[1, 0, :4, :4] == 1).all()
    assert (weights[1, 0, :4, 4:8] > 0).all()
    assert not weights[1, 0, 8:].any()
    assert not weights[1, 0, :, 8:].any()
    assert (compute_changed_pixel_weights(target + 1, source, (16, 16)) == 1).all()


def test_a_blend_by_words_leaves_the_rest_of_the_photo_as_it_is():
    """Every pixel more than a latent away from what the blend let change, on the embedded model."""
    editor = PromptEditPipeline.from_pretrained("embedded")
    editor.set_progress_bar_config(disable=True)
    config = SceneDatasetConfig(seed=991, max_objects=1, alone=1.0, vocabulary=["cat"])
    scene = SceneDataset(config).render_scene(0)
    caption = scene.caption
    source = editor.invert(scene.pixels, caption, num_inference_steps=4, guidance_scale=3.0)
    edit = {"target": caption.replace("cat", "dog"), "blend": ("cat", "dog")}
    latents = editor(source, **edit, output_type="latent").images
    changed = (latents[0] != latents[1]).any(dim=0)[None].float()
    assert 0.1 < changed.mean() < 0.8
    far = functional.max_pool2d(changed, 3, 1, padding=1)[0] == 0
    side = scene.pixels.shape[0] // far.shape[0]
    far = far.repeat_interleave(side, 0).repeat_interleave(side, 1).numpy()
    edited = bytes_of(editor(source, **edit).images[1])
    np.testing.assert_array_equal(edited[far], scene.pixels[far])
    assert (edited != scene.pixels)[~far].any(axis=1).mean() > 0.8


def test_a_latent_changes_if_any_of_its_pixels_may():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 3] = 1
    run = type("Run", (), {"latents_BCHW": torch.ones(2, 4, 2, 2), "step": 0})()
    KeepUnmaskedOnPathCallback(lambda step: torch.zeros(1, 4, 2, 2), mask).after_step(run)
    assert run.latents_BCHW[0, 0].tolist() == [[1, 0], [0, 0]]


# kinds of masks

KINDS = {
    "of the photo": mask_of(),
    "in colour": mask_of().convert("RGB"),
    "on a clear layer": Image.merge("LA", (Image.new("L", (96, 96), 255), mask_of())),
    "boolean": np.asarray(mask_of(), bool),
    "numbers": np.asarray(mask_of()) / 255,
    "bytes": np.asarray(mask_of()),
    "a tensor": torch.from_numpy(np.array(mask_of())).bool()[None, None],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask_is_that_mask(kind, tmp_path):
    given = KINDS[kind]
    photo = prepare_photo(colourful(96, 96), 32, 32, mask=given)
    np.testing.assert_array_equal(np.asarray(photo.mask), np.asarray(mask_of()))
    if isinstance(given, Image.Image):
        given.save(tmp_path / "mask.png")
        again = prepare_photo(colourful(96, 96), 32, 32, mask=tmp_path / "mask.png")
        assert again.mask.tobytes() == photo.mask.tobytes()


def test_a_mask_is_fitted_as_the_photo_is():
    for fit in ("crop", "pad", "stretch"):
        marked = Image.new("RGB", (120, 60))
        marked.paste("white", (64, 14, 88, 38))
        photo = prepare_photo(marked, 32, 32, fit, mask=marked)
        shown = bytes_of(photo.image)[..., 0] >= 128
        assert (shown != photo.mask_pixels[0, 0].bool().numpy()).mean() < 0.03


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_mask_drawn_on_what_the_model_is_shown_is_enlarged(fit):
    drawn = mask_of((32, 32), (8, 12, 20, 16))
    photo = prepare_photo(colourful(120, 60), 32, 32, fit, mask=drawn)
    assert torch.equal(photo.mask_pixels[0, 0] > 0, torch.from_numpy(np.array(drawn)) > 0)


def test_a_smaller_mask_of_the_same_shape_is_scaled_with_a_warning():
    small = mask_of((48, 48), tuple(place // 2 for place in BOX))
    with pytest.warns(
        UserWarning, match="mask of 48x48 pixels is scaled to the 96x96 of the photo"
    ):
        photo = prepare_photo(colourful(96, 96), 32, 32, mask=small)
    assert photo.mask.tobytes() == mask_of().tobytes()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (mask_of((96, 64)), ArgumentError, "mask of 96x64 pixels for a photo of 96x96"),
        (Image.new("L", (96, 96)), ArgumentError, "mask has no white in what the model is shown"),
        (np.zeros((96, 96, 3)), ArgumentError, r"mask of shape \(96, 96, 3\), expected one value"),
        (torch.full((96, 96), -1.0), ArgumentError, "a mask with numbers below 0"),
        (3, ArgumentError, "Got mask of type int"),
        ("mask.png", DataError, "No such picture: mask.png"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_masks_that_fit_no_photo_are_refused_in_words(mask, error, message):
    with pytest.raises(error, match=message):
        prepare_photo(colourful(96, 96), 32, 32, mask=mask)


def test_a_mask_outside_of_the_crop_is_refused_with_what_to_do():
    mask = mask_of((192, 96), (0, 0, 40, 40))
    with pytest.raises(ArgumentError, match=r"cropped to the middle 96x96.*fit=.pad., --fit pad"):
        prepare_photo(colourful(192, 96), 32, 32, mask=mask)
    assert prepare_photo(colourful(192, 96), 32, 32, "pad", mask).mask_pixels.any()


def test_a_mask_without_white_is_refused_without_the_advice_of_another_fit():
    with pytest.raises(ArgumentError, match=r"paint white what may change\.$"):
        prepare_photo(colourful(192, 96), 32, 32, mask=Image.new("L", (192, 96)))


def test_of_a_mask_of_another_shape_nothing_else_is_said(recwarn):
    with pytest.raises(ArgumentError, match="Got a mask of 7x5 pixels"):
        prepare_photo(colourful(96, 96), 32, 32, mask=Image.new("L", (7, 5), 255))
    assert not recwarn.list


def test_a_mask_that_is_white_all_over_is_warned_about():
    with pytest.warns(UserWarning, match="The mask is white all over"):
        prepare_photo(colourful(96, 96), 32, 32, mask=Image.new("L", (96, 96), 255))


def test_a_photo_is_inverted_by_sdxl_in_half_precision():
    """Its VAE overflows there, so that it encodes and decodes in float32."""
    vae = overflowing_vae(force_upcast=True)
    pipe = PromptEditPipeline(**tiny_sdxl_components() | {"vae": vae}).to(torch.float16)
    pipe.set_progress_bar_config(disable=True)
    source = pipe.invert(colourful(32, 32), "a cat", "edit-friendly", **RUN)
    assert source.pixels.isfinite().all()
    assert pipe(source, "a dog").images[1].size == (32, 32)
