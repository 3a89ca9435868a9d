"""The data set itself: what is shown, in which shape, with which caption, whatever happens."""

import pickle
import subprocess
import sys
import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from t2i.errors import ArgumentError, DataError
from tests.train.data.making import COLOURS, NAMES, colour_of, folder_of, noise, plain
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.data.buckets import compute_covering_shape
from train.data.pictures import PictureCropAndFlip, Pictures
from train.data.pictures_config import PictureDatasetConfig


def config_of(folder: Path | None = None, **keys: object) -> PictureDatasetConfig:
    return PictureDatasetConfig.model_validate(
        {"size": 32, "bucket_step": 8, **({"folder": folder} if folder else {}), **keys}
    )


def several(tmp_path: Path) -> Path:
    """Noise of many shapes, some with captions of several tags."""
    folder = tmp_path / "several"
    folder.mkdir()
    shapes = [(60, 40), (40, 60), (50, 50), (200, 50), (33, 70), (64, 64), (41, 40)]
    for number, (width, height) in enumerate(shapes):
        noise(number, width, height).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"n{number}, one, two, three")
    return folder


LIVELY = {"crop": "random", "flip": True, "shuffle_captions": True, "keep_tokens": 1}


def test_captions_are_never_paired_with_another_picture(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *NAMES)
    pictures = Pictures(config_of(folder, crop="random", flip=True, prefix="look:", held_out=2))
    for part in (pictures, pictures.build_held_out_set()):
        for index in range(len(part)):
            for visit in range(6):
                sample = part.read_example(index, visit)
                assert sample.caption == f"look: a {colour_of(sample.pixels)} sheet"
                variant = part.variant_at_visit(index, visit)
                assert colour_of(
                    part.load_uncaptioned_example(variant).pixels
                ) in part.caption_at_visit(index, visit)


def test_a_picture_put_in_the_place_of_another_never_gets_its_caption(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *NAMES)
    pictures = Pictures(config_of(folder, buckets=False, bad_share=0.5))
    red, green = (pictures.picture_name(index) for index in range(2))
    plain("green", 43, 41).save(red)  # as if the two had been renamed
    with pytest.warns(UserWarning, match="00-red.png: is another picture than when the run began"):
        sample = pictures.read_example(0, 0)
    assert sample.name == green
    assert sample.caption == "a green sheet"
    assert colour_of(sample.pixels) == "green"


def test_every_visit_is_the_same_in_a_copy_any_order_and_another_process(tmp_path: Path) -> None:
    folder = several(tmp_path)
    pictures = Pictures(config_of(folder, **LIVELY))
    copy = pickle.loads(pickle.dumps(pictures))
    places = [(index, visit) for index in range(len(pictures)) for visit in (0, 7, 1000)]
    first = [pictures.read_example(*place) for place in places]
    again = [copy.read_example(*place) for place in reversed(places)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.caption, one.size_and_crop, one.name) == (
            other.caption,
            other.size_and_crop,
            other.name,
        )

    script = (
        "import sys; from hashlib import sha256; from pathlib import Path; "
        "from train.data.pictures import Pictures; "
        "from train.data.pictures_config import PictureDatasetConfig; "
        "p = Pictures(PictureDatasetConfig(folder=Path(sys.argv[1]), size=32, bucket_step=8, "
        "crop='random', flip=True, shuffle_captions=True, keep_tokens=1)); "
        "s = p.read_example(4, 1000); "
        "print(sha256(s.pixels.tobytes()).hexdigest(), s.caption, "
        "p.compute_fingerprint(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
    )
    sample = pictures.read_example(4, 1000)
    assert done.stdout.splitlines() == [
        sha256(sample.pixels.tobytes()).hexdigest(),
        sample.caption,
        pictures.compute_fingerprint(),
    ]


def test_a_visit_differs_from_others_and_another_seed_differs_too(tmp_path: Path) -> None:
    folder = several(tmp_path)
    pictures, other = (Pictures(config_of(folder, seed=seed, **LIVELY)) for seed in (0, 1))
    captions = {pictures.caption_at_visit(0, visit) for visit in range(40)}
    assert len(captions) == 6
    assert all(caption.startswith("n0, ") for caption in captions)
    assert {pictures.variant_at_visit(0, visit) for visit in range(100)} == {
        *pictures.list_variants(0)
    }
    assert [pictures.variant_at_visit(0, v) for v in range(20)] != [
        other.variant_at_visit(0, v) for v in range(20)
    ]


def test_what_is_read_is_the_variant_with_the_caption_of_the_visit(tmp_path: Path) -> None:
    pictures = Pictures(config_of(several(tmp_path), **LIVELY))
    for index in range(len(pictures)):
        sample = pictures.read_example(index, 9)
        alone = pictures.load_uncaptioned_example(pictures.variant_at_visit(index, 9))
        assert np.array_equal(sample.pixels, alone.pixels)
        assert (alone.caption, sample.caption) == ("", pictures.caption_at_visit(index, 9))
        assert (
            sample.size_and_crop
            == alone.size_and_crop
            == pictures.compute_original_size_and_crop(pictures.variant_at_visit(index, 9))
        )


def test_equal_keys_are_equal_pixels_and_others_are_not(tmp_path: Path) -> None:
    folder = several(tmp_path)
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    pictures = Pictures(config_of(folder, **LIVELY))
    seen: dict[str, bytes] = {}
    for index in range(len(pictures)):
        for variant in pictures.list_variants(index):
            pixels = pictures.load_uncaptioned_example(variant).pixels.tobytes()
            assert seen.setdefault(pictures.pixels_cache_key(variant), pixels) == pixels
    assert len({*seen.values()}) == len(seen)
    assert sum(len(pictures.list_variants(index)) for index in range(len(pictures))) > len(seen)


def test_every_picture_is_in_one_group_and_a_group_has_one_shape(tmp_path: Path) -> None:
    pictures = Pictures(config_of(several(tmp_path)))
    groups = pictures.group_indices_by_shape()
    assert sorted(index for group in groups for index in group) == list(range(7))
    for group in groups:
        (shape,) = {pictures.read_example(index, 0).pixels.shape for index in group}
        assert shape == (*pictures.bucket_shape(group[0]), 3)
        assert shape[0] * shape[1] <= 32 * 32
    order = BatchOrder(groups, 3, seed=1)
    shown = Counter(
        index for step in range(order.steps_per_epoch) for index in order.list_example_indices(step)
    )
    assert {*shown} == {*range(7)}


def test_without_buckets_every_picture_becomes_the_square(tmp_path: Path) -> None:
    pictures = Pictures(config_of(several(tmp_path), buckets=False))
    (group,) = pictures.group_indices_by_shape()
    assert group == list(range(7))
    assert {pictures.read_example(index, 0).pixels.shape for index in group} == {(32, 32, 3)}


def test_a_picture_is_scaled_cut_and_mirrored_as_its_framing_says(tmp_path: Path) -> None:
    picture = noise(3, 100, 60)
    picture.save(tmp_path / "a.png")
    pictures = Pictures(config_of(tmp_path, crop="random", flip=True, buckets=False))
    assert len(pictures.list_variants(0)) == 8
    for variant in pictures.list_variants(0):
        sample = pictures.load_uncaptioned_example(variant)
        assert sample.size_and_crop is not None
        covered = compute_covering_shape(pictures.checked[0].shape, pictures.bucket_shape(0))
        assert covered == (32, 53)
        top, left = sample.size_and_crop.corner
        scaled = picture.resize(covered[::-1], Image.Resampling.LANCZOS)
        expected = np.asarray(scaled)[top : top + 32, left : left + 32]
        assert np.array_equal(sample.pixels, expected[:, ::-1] if variant.flip else expected)
        assert sample.size_and_crop.original == (60, 100)
    assert pictures.compute_original_size_and_crop(PictureCropAndFlip(0, 0, False)).corner == (
        0,
        10,
    )


def test_a_picture_is_upright_before_its_bucket_is_chosen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0, 60, 40).save(tmp_path / "a.jpg", exif=exif)
    pictures = Pictures(config_of(tmp_path))
    bucket = pictures.bucket_shape(0)
    assert bucket.height > bucket.width
    assert pictures.read_example(0, 0).size_and_crop.original == (60, 40)


def test_repeats_multiply_the_places_of_a_picture(tmp_path: Path) -> None:
    folder_of(tmp_path / "a" / "3_x", "red")
    folder_of(tmp_path / "b", "green", "blue")
    subsets = [{"folder": tmp_path / "a", "repeats": 2}, {"folder": tmp_path / "b"}]
    pictures = Pictures(config_of(subsets=subsets))
    assert len(pictures) == 3
    assert Counter(index for group in pictures.group_indices_by_shape() for index in group) == {
        0: 6,
        1: 1,
        2: 1,
    }


@pytest.mark.parametrize(
    ("instance", "prior", "repeats", "places"),
    [
        (2, 5, 1, {0: 3, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}),
        (2, 3, 4, {0: 4, 1: 4, 2: 3, 3: 3, 4: 2}),
        (3, 3, 1, dict.fromkeys(range(6), 1)),
    ],
)
def test_prior_and_other_pictures_are_equally_many_in_an_epoch(
    tmp_path: Path, instance: int, prior: int, repeats: int, places: dict[int, int]
) -> None:
    folder_of(tmp_path / "a", *NAMES[:instance])
    folder_of(tmp_path / "b", *NAMES[3 : 3 + prior])
    subsets = [
        {"folder": tmp_path / "a", "repeats": repeats},
        {"folder": tmp_path / "b", "prior": True, "prior_weight": 0.5},
    ]
    pictures = Pictures(config_of(subsets=subsets, trigger="sks"))
    counts = Counter(index for group in pictures.group_indices_by_shape() for index in group)
    assert counts == places
    assert [pictures.read_example(index, 0).weight for index in range(len(pictures))] == [
        *[1.0] * instance,
        *[0.5] * prior,
    ]
    assert pictures.caption_at_visit(0, 0) == "sks, a red sheet"
    assert not pictures.caption_at_visit(instance, 0).startswith("sks")


def test_a_mask_is_cut_with_its_picture(tmp_path: Path) -> None:
    folder, masks = tmp_path / "pictures", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    picture, mask = plain("blue", 100, 60), Image.new("L", (50, 30))
    picture.paste(COLOURS["red"], (40, 10, 70, 40))
    mask.paste(255, (20, 5, 35, 20))
    picture.save(folder / "a.png")
    mask.save(masks / "a.png")
    plain("blue").save(folder / "b.png")
    subset = {"folder": folder, "masks": masks}
    pictures = Pictures(config_of(subsets=[subset], crop="random", flip=True))
    for variant in pictures.list_variants(0):
        sample = pictures.load_uncaptioned_example(variant)
        assert sample.loss_mask is not None
        assert sample.loss_mask.shape == sample.pixels.shape[:2]
        red = np.abs(sample.pixels.astype(int) - COLOURS["red"]).sum(axis=-1) < 60
        assert (sample.loss_mask[red] > 200).mean() > 0.95
        assert ((sample.loss_mask > 128) != red).mean() < 0.06
    assert pictures.read_example(1, 0).loss_mask is None


def test_alpha_is_a_mask_if_asked_and_white_if_not(tmp_path: Path) -> None:
    picture = plain("blue").convert("RGBA")
    alpha = Image.new("L", picture.size)
    alpha.paste(255, (0, 0, 20, 40))
    picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    plain("red").save(tmp_path / "b.png")
    asked, not_asked = (Pictures(config_of(tmp_path, alpha_mask=a)) for a in (True, False))

    masked = asked.read_example(0, 0)
    assert masked.loss_mask is not None
    assert masked.loss_mask[:, :14].min() > 250
    assert masked.loss_mask[:, 18:].max() < 5
    assert colour_of(masked.pixels) == "blue"
    assert asked.read_example(1, 0).loss_mask is None

    whitened = not_asked.read_example(0, 0)
    assert whitened.loss_mask is None
    assert whitened.pixels[:, 20:].min() > 250
    assert colour_of(whitened.pixels[:, :14]) == "blue"
    assert asked.pixels_cache_key(PictureCropAndFlip(0, 0, False)) != not_asked.pixels_cache_key(
        PictureCropAndFlip(0, 0, False)
    )


@pytest.mark.parametrize("below", ["white", "black"])
def test_where_a_mask_is_clear_the_loss_does_not_count(tmp_path: Path, below: str) -> None:
    folder = folder_of(tmp_path / "a", "red")
    box = Image.new("L", (40, 40))
    box.paste(255, (0, 0, 20, 40))
    layer = Image.new("RGB", box.size, below)
    layer.paste("white", mask=box)
    layer.putalpha(box)
    (tmp_path / "masks").mkdir()
    layer.save(tmp_path / "masks" / "00-red.png")
    pictures = Pictures(config_of(subsets=[{"folder": folder, "masks": tmp_path / "masks"}]))
    loss_mask = pictures.read_example(0, 0).loss_mask
    assert loss_mask is not None
    assert loss_mask[:, :14].min() > 250
    assert loss_mask[:, 18:].max() < 5
    assert pictures.build_summary().odd_masks == []


def test_a_subset_may_do_without_the_data_set_s_alpha_mask(tmp_path: Path) -> None:
    picture = plain("blue").convert("RGBA")
    picture.putalpha(0)
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / "a.png")
    subsets = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "a", "alpha_mask": False}]
    pictures = Pictures(config_of(subsets=subsets, alpha_mask=True))
    assert [pictures.read_example(index, 0).loss_mask is None for index in range(2)] == [
        False,
        True,
    ]
    assert [pictures.read_example(index, 0).pixels.min() == 255 for index in range(2)] == [
        False,
        True,
    ]


def test_a_mask_of_other_proportions_breaks_its_picture(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "red")
    (tmp_path / "masks").mkdir()
    plain("black", 80, 40).save(tmp_path / "masks" / "00-red.png")
    with pytest.raises(DataError, match=r"00-red.png: its mask: is 80x40, of other proportions th"):
        Pictures(config_of(subsets=[{"folder": folder, "masks": tmp_path / "masks"}]))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, ["a red sheet", ""]),
        ({"caption": "a photo of {trigger}, {stem}", "trigger": "sks"}, None),
        ({"trigger": "sks"}, ["sks, a red sheet", "sks"]),
        ({"prefix": "see", "suffix": ", oil"}, ["see a red sheet, oil", "see, oil"]),
    ],
)
def test_captions_are_completed(tmp_path: Path, keys: dict[str, str], told: list[str]) -> None:
    folder = folder_of(tmp_path, "red")
    plain("green").save(folder / "b.png")
    pictures = Pictures(config_of(folder, **keys))
    expected = told or ["a photo of sks, 00-red", "a photo of sks, b"]
    assert [pictures.caption_at_visit(index, 3) for index in range(2)] == expected
    assert pictures.list_captions_of_all_pictures() == {*expected}


def test_a_default_caption_is_for_pictures_without_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    plain("green").save(folder / "b.png")
    subset = {"folder": folder, "default_caption": "a {folder}"}
    pictures = Pictures(config_of(subsets=[subset]))
    assert [pictures.caption_at_visit(i, 0) for i in range(2)] == [
        "a red sheet",
        f"a {tmp_path.name}",
    ]


def test_captions_that_are_shuffled_are_not_listed(tmp_path: Path) -> None:
    assert (
        Pictures(
            config_of(several(tmp_path), shuffle_captions=True)
        ).list_captions_of_all_pictures()
        is None
    )


def test_held_out_pictures_are_the_same_ones_when_others_are_added(tmp_path: Path) -> None:
    folder = several(tmp_path)
    before = Pictures(config_of(folder, held_out=0.4, **LIVELY))
    names = {
        before.build_held_out_set().picture_name(index)
        for index in range(len(before.build_held_out_set()))
    }
    assert 0 < len(names) < 7
    assert not names & {before.picture_name(index) for index in range(len(before))}
    for number in range(7, 30):
        noise(number, 40, 40).save(folder / f"{number}.png")
    after = Pictures(config_of(folder, held_out=0.4, seed=5, **LIVELY))
    still = {
        after.build_held_out_set().picture_name(index)
        for index in range(len(after.build_held_out_set()))
    }
    assert names == {name for name in still if int(Path(name).stem) < 7}
    assert len(still) > len(names)
    assert len(Pictures(config_of(folder, held_out=3)).build_held_out_set()) == 3


def test_prior_pictures_are_not_held_out(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", *NAMES[:4])
    folder_of(tmp_path / "b", *NAMES[3:])  # one of them is among the others too
    subsets = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "b", "prior": True}]
    pictures = Pictures(config_of(subsets=subsets, held_out=3))
    held_out = pictures.build_held_out_set()
    assert [held_out.is_class_picture(index) for index in range(len(held_out))] == [False] * 3
    assert sum(map(pictures.is_class_picture, range(len(pictures)))) >= 4
    kept = {held_out.picture_digest(index) for index in range(3)}
    assert not kept & {pictures.picture_digest(index) for index in range(len(pictures))}


def test_a_held_out_picture_looks_the_same_at_every_visit(tmp_path: Path) -> None:
    held_out = Pictures(config_of(several(tmp_path), held_out=3, **LIVELY)).build_held_out_set()
    for index in range(3):
        first = held_out.read_example(index, 0)
        assert all(
            np.array_equal(first.pixels, held_out.read_example(index, visit).pixels)
            for visit in range(9)
        )
        assert {
            held_out.caption_at_visit(index, visit) for visit in range(9)
        } == held_out.list_captions_of_all_pictures() & {first.caption}


def test_nothing_is_held_out_unless_asked(tmp_path: Path) -> None:
    pictures = Pictures(config_of(several(tmp_path)))
    assert (len(pictures), len(pictures.build_held_out_set())) == (7, 0)
    assert pictures.build_held_out_set().group_indices_by_shape() == []


def test_too_many_broken_pictures_stop_before_the_first_step(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *NAMES)
    (folder / "x.png").write_bytes((folder / "00-red.png").read_bytes()[:60])
    (folder / "y.jpg").write_bytes(b"")
    expected = (
        r"2 of 10 pictures cannot be used, more than bad_share = 0\.01 allows:\n"
        r"  .*/x\.png: is damaged or cut short .*\n  .*/y\.jpg: is empty; expected .*\nMend or"
    )
    with pytest.raises(DataError, match=expected):
        Pictures(config_of(folder))
    pictures = Pictures(config_of(folder, bad_share=0.2))
    assert len(pictures) == 8
    assert [Path(one.name).name for one in pictures.found.broken] == ["x.png", "y.jpg"]


def test_of_many_broken_pictures_twenty_are_listed(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"19\.png: is empty.*\n  and 5 more\n"):
        Pictures(config_of(tmp_path))


def test_a_quick_check_looks_at_headers_only(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *NAMES)
    (folder / "x.png").write_bytes((folder / "00-red.png").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"x\.png: is damaged"):
        Pictures(config_of(folder))
    pictures = Pictures(config_of(folder, check="quick", bad_share=0.2))
    assert len(pictures) == 9
    with pytest.warns(UserWarning, match=r"x\.png: is damaged .*; another picture takes its place"):
        assert pictures.read_example(8, 0).name != pictures.picture_name(8)


def test_a_lost_picture_is_named_once_and_the_next_of_its_shape_stands_in(tmp_path: Path) -> None:
    folder = several(tmp_path)
    noise(50, 60, 40).save(folder / "8.png")
    (folder / "8.txt").write_text("the stand-in")
    pictures = Pictures(config_of(folder, bad_share=0.2))
    copy = pickle.loads(pickle.dumps(pictures))
    (folder / "0.png").unlink()
    with pytest.warns(UserWarning, match=r"0\.png: is not there; another picture takes its place"):
        sample = pictures.read_example(0, 4)
    assert sample.name == f"{folder}/8.png"
    assert sample.caption == "the stand-in"
    assert sample.pixels.shape == (*pictures.bucket_shape(0), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pictures.read_example(0, 4)
    with pytest.warns(UserWarning, match="takes its place"):
        other = copy.read_example(0, 4)
    assert np.array_equal(sample.pixels, again.pixels)
    assert np.array_equal(sample.pixels, other.pixels)


def test_too_many_lost_pictures_stop_the_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *NAMES)
    pictures = Pictures(config_of(folder, buckets=False, bad_share=0.2))
    (folder / "00-red.png").unlink()
    with pytest.warns(UserWarning, match="00-red"):
        pictures.read_example(0, 0)
    (folder / "01-green.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="01-green"),
        pytest.raises(
            DataError, match=r"2 of 8 pictures cannot be used, more than bad_share = 0.2"
        ),
    ):
        pictures.read_example(1, 0)


def test_the_fingerprint_is_of_content_and_captions_not_of_paths(tmp_path: Path) -> None:
    first = Pictures(config_of(folder_of(tmp_path / "a", *NAMES))).compute_fingerprint()
    assert Pictures(config_of(folder_of(tmp_path / "b", *NAMES))).compute_fingerprint() == first
    (tmp_path / "b" / "00-red.txt").write_text("another caption")
    assert Pictures(config_of(tmp_path / "b")).compute_fingerprint() != first
    plain("black", 40, 40).save(tmp_path / "a" / "00-red.png")
    assert Pictures(config_of(tmp_path / "a")).compute_fingerprint() != first


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    Pictures(config_of(several(tmp_path)), lambda done, of: told.append((done, of)))
    assert told == [(number, 7) for number in range(1, 8)]


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No pictures in .*\. Check the path"):
        Pictures(config_of(tmp_path))


def test_holding_all_pictures_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No picture is left to train on: of 7, 7 are held out"):
        Pictures(config_of(several(tmp_path), held_out=9))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "Got neither of folder and subsets: name one folder"),
        ({"folder": "a", "subsets": [{"folder": "b"}]}, "Got both of folder and subsets"),
        (
            {"subsets": [{}]},
            "Got none of folder, pairs, tars, dataset, kohya: a subset has",
        ),
        ({"subsets": [{"folder": "a", "tars": "b"}]}, "Got folder and tars of folder, pairs, tars"),
        ({"subsets": [{"tars": "b", "masks": "a"}]}, "masks go with folder, not with tars"),
        ({"subsets": [{"folder": "a", "masks": "b", "alpha_mask": True}]}, "one mask, choose"),
        ({"subsets": [{"folder": "a", "prior_weight": 2}]}, "prior_weight is set, but prior is"),
        ({"subsets": [{"folder": "a", "prior": True}]}, "Every subset is a prior one"),
        ({"folder": "a", "size": 100, "bucket_step": 64}, "size = 100 is no multiple of bucket_s"),
        ({"folder": "a", "caption": "a {name}"}, r"caption: \{name\} is none of trigger, stem, f"),
        ({"folder": "a", "max_pixels": 10**9}, "less than or equal to 89000000"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(
    keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        PictureDatasetConfig.model_validate(keys)


def test_a_caption_that_names_a_trigger_needs_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    with pytest.raises(ArgumentError, match=r"'a {trigger}' names a trigger, but there is none"):
        Pictures(config_of(folder, caption="a {trigger}"))


@pytest.mark.slow
def test_worker_processes_read_what_one_process_reads(tmp_path: Path) -> None:
    pictures = Pictures(config_of(several(tmp_path), **LIVELY))
    order = BatchOrder(pictures.group_indices_by_shape(), 2, seed=1)
    alone, together = (
        list(iterate_micro_batches_of_steps(pictures, order, ProcessShare(), range(6), workers))
        for workers in (0, 1)  # cache/test_runs.py has two
    )
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.pixels_BCHW, other.pixels_BCHW)
        assert (one.captions, one.names) == (other.captions, other.names)
