"""kohya's description of data sets, as ours."""

from pathlib import Path

import pytest

from t2i.errors import ArgumentError, DataError
from tests.train.data.making import folder_of
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sources.kohya import load_kohya_subsets_and_unused_key_notes
from train.data.subsets import SubsetConfig

WHOLE = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1
[[datasets]]
resolution = [512, 512]
batch_size = 4
enable_bucket = true
keep_tokens = 2
color_aug = false
  [[datasets.subsets]]
  image_dir = "dog"
  class_tokens = "sks dog"
  num_repeats = 10
  flip_aug = true
  random_crop = true
  [[datasets.subsets]]
  image_dir = "/class"
  is_reg = true
  shuffle_caption = false
  keep_tokens = 3
  caption_prefix = "a"
  caption_tag_dropout_rate = 0.1
  conditioning_data_dir = "masks"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.toml"
    path.write_text(text)
    return path


def test_its_keys_become_ours_and_inherit_as_there(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    subsets, notes = load_kohya_subsets_and_unused_key_notes(path, 512)
    shared = {"caption_extension": ".txt"}
    assert subsets == [
        SubsetConfig(
            folder=tmp_path / "dog",
            default_caption="sks dog",
            repeats=10,
            flip=True,
            crop="random",
            shuffle_captions=True,
            keep_tokens=2,
            **shared,
        ),
        SubsetConfig(
            folder=Path("/class"),
            prior=True,
            shuffle_captions=False,
            keep_tokens=3,
            prefix="a",
            tag_dropout=0.1,
            masks=tmp_path / "masks",
            **shared,
        ),
    ]
    assert notes == [
        f"{path}: batch_size is not used; set train.batch_size instead",
        f"{path}: enable_bucket is not used; set data.buckets instead",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dirs = "a"', "unknown key 'image_dirs'. Did"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", r"subsets\[0\]: no image_dir, so"),
        ("[datasets]\nresolution = 4", r"datasets must be written as \[\[datasets\]\]"),
        ("[data]\na = 1\n[[datasets]]", "unknown table 'data'. Did you mean 'datasets'"),
        (
            '[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = "a"',
            "resolution = 768 has the area of data.size = 768, but data.size = 512: set",
        ),
        (
            '[[datasets]]\nresolution = "x"\n[[datasets.subsets]]\nimage_dir = "a"',
            r"resolution = 'x'; expected a number or \[width, height\]",
        ),
        (
            '[[datasets]]\ncolor_aug = true\n[[datasets.subsets]]\nimage_dir = "a"',
            "color_aug = True is not supported; remove the key",
        ),
        (
            '[[datasets]]\ncaption_separator = ";"\n[[datasets.subsets]]\nimage_dir = "a"',
            "caption_separator = ';'; only ',' is understood",
        ),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 0',
            r"subsets\[0\]: num_repeats: Input should be greater than .* \(given: 0\)",
        ),
        ("[[datasets", "Cannot read the kohya config"),
    ],
)
def test_what_cannot_be_taken_over_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load_kohya_subsets_and_unused_key_notes(written(tmp_path, text), 512)


def test_a_file_without_subsets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \[\[datasets.subsets\]\] in it"):
        load_kohya_subsets_and_unused_key_notes(written(tmp_path, "[[datasets]]"), 512)


def test_its_pictures_are_shown(tmp_path: Path) -> None:
    folder_of(tmp_path / "dog", "red", "green", captions=False)
    folder_of(tmp_path / "class", "blue")
    path = written(
        tmp_path,
        '[[datasets]]\nresolution = 32\n[[datasets.subsets]]\nimage_dir = "dog"\nnum_repeats = 3\n'
        'class_tokens = "sks dog"\n[[datasets.subsets]]\nimage_dir = "class"\nis_reg = true\n',
    )
    config = PictureDatasetConfig(size=32, bucket_step=8, subsets=(SubsetConfig(kohya=path),))
    pictures = Pictures(config)
    assert [pictures.caption_at_visit(index, 0) for index in range(3)] == [
        "sks dog",
        "sks dog",
        "a blue sheet",
    ]
    counts = [
        sum(group.count(index) for group in pictures.group_indices_by_shape()) for index in range(3)
    ]
    assert counts == [3, 3, 6]
