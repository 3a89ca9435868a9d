"""Data sets of the library `datasets`."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2i.errors import ArgumentError, DataError
from tests.train.data.making import NAMES, colour_of, folder_of, plain
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sources.huggingface_dataset import list_huggingface_dataset
from train.data.subsets import SubsetConfig

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Of eight colours, each with its caption, and a list of them."""
    table = datasets.Dataset.from_dict(
        {
            "image": [plain(colour) for colour in NAMES],
            "text": [f"a {colour} one" for colour in NAMES],
            "many": [[colour, f"{colour}, plain"] for colour in NAMES],
            "number": list(range(8)),
        }
    ).cast_column("image", datasets.Image())
    folder = tmp_path / "saved"
    table.save_to_disk(folder)
    return folder


def pictures_of(dataset: str, **keys: Any) -> Pictures:
    subset = SubsetConfig(dataset=dataset, **keys)
    return Pictures(PictureDatasetConfig(size=32, bucket_step=8, subsets=(subset,)))


def test_a_saved_table_gives_each_picture_its_caption(saved: Path) -> None:
    pictures = pictures_of(str(saved))
    assert len(pictures) == 8
    for index in (7, 0, 3):
        sample = pictures.read_example(index, 5)
        assert colour_of(sample.pixels) == NAMES[index]
        assert sample.caption == f"a {NAMES[index]} one"
        assert sample.name == f"{saved}[{index}]"


def test_a_list_of_captions_may_be_named(saved: Path) -> None:
    pictures = pictures_of(str(saved), caption_column="many")
    assert {pictures.caption_at_visit(0, visit) for visit in range(30)} == {"red", "red, plain"}


def test_an_imagefolder_is_opened_by_its_builder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", *NAMES[:3], captions=False)
    rows = "".join(
        f"{number:02}-{colour}.png,a {colour} one\n" for number, colour in enumerate(NAMES[:3])
    )
    (folder / "metadata.csv").write_text("file_name,text\n" + rows)
    pictures = pictures_of(str(folder))
    for index in range(3):
        sample = pictures.read_example(index, 0)
        assert sample.caption == f"a {colour_of(sample.pixels)} one"


def test_a_split_of_several_is_chosen(saved: Path, tmp_path: Path) -> None:
    table = datasets.load_from_disk(saved)
    both = datasets.DatasetDict({"train": table.select(range(5)), "test": table.select([6])})
    both.save_to_disk(tmp_path / "both")
    assert len(pictures_of(str(tmp_path / "both"))) == 5
    assert (
        pictures_of(str(tmp_path / "both"), split="test").read_example(0, 0).caption == "a gray one"
    )


def test_a_pickled_set_reads_the_same(saved: Path) -> None:
    import pickle

    pictures = pictures_of(str(saved))
    again = pickle.loads(pickle.dumps(pictures))
    assert np.array_equal(again.read_example(2, 3).pixels, pictures.read_example(2, 3).pixels)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_column": "imag"}, "image_column = 'imag' is no column .* mean 'image'"),
        ({"image_column": "number"}, "image_column = 'number' of .* holds no pictures"),
        ({"caption_column": "texts"}, "caption_column = 'texts' is no column .* mean 'text'"),
    ],
)
def test_columns_that_are_none_are_named(saved: Path, keys: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        list_huggingface_dataset(str(saved), **keys)


def test_captions_that_are_no_text_break_their_pictures(saved: Path) -> None:
    listing = list_huggingface_dataset(str(saved), caption_column="number")
    assert not listing.pictures
    assert "[3]: the caption is 3; expected a string" in str(listing.broken[3])


def test_what_datasets_cannot_open_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="datasets cannot open 'nobody/nothing' "):
        list_huggingface_dataset("nobody/nothing")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ArgumentError, match=r"not installed: pip install .*\[data\]"):
        list_huggingface_dataset("some/pictures")
