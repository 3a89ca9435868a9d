"""What somebody names on a command line, as a configuration."""

from pathlib import Path

import pytest

from t2i.errors import ArgumentError
from train.data.config_from_path import infer_data_config_from_path, read_batch_size_from_run_toml

RUN = """
[train]
batch_size = 6
[data]
kind = "pictures"
size = 128
bucket_step = 32
[[data.subsets]]
folder = "mine"
masks = "masks"
[[data.subsets]]
tars = ["a-{0..1}.tar", "http://somewhere/b.tar", "/c.tar"]
[[data.subsets]]
dataset = "some/pictures"
[[data.subsets]]
dataset = "here"
[[data.subsets]]
kohya = "k.toml"
"""


def test_a_run_s_paths_are_as_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    config = infer_data_config_from_path(path)
    mine, tars, table, saved, kohya = config.subsets
    assert (config.size, config.bucket_step) == (128, 32)
    assert (mine.folder, mine.masks) == (tmp_path / "mine", tmp_path / "masks")
    assert tars.tars == (f"{tmp_path}/a-{{0..1}}.tar", "http://somewhere/b.tar", "/c.tar")
    assert (table.dataset, saved.dataset) == ("some/pictures", str(tmp_path / "here"))
    assert kohya.kohya == tmp_path / "k.toml"
    assert read_batch_size_from_run_toml(path) == 6


def test_a_folder_a_tar_and_kohya_s_file_can_be_named(tmp_path: Path) -> None:
    assert infer_data_config_from_path(tmp_path).folder == tmp_path
    (tmp_path / "a.tar").touch()
    assert infer_data_config_from_path(tmp_path / "a.tar").subsets[0].tars == str(
        tmp_path / "a.tar"
    )
    kohya = tmp_path / "k.toml"
    kohya.write_text("[[datasets]]")
    assert infer_data_config_from_path(kohya).subsets[0].kohya == kohya
    assert read_batch_size_from_run_toml(kohya) is read_batch_size_from_run_toml(tmp_path) is None


def test_small_pictures_have_narrow_steps(tmp_path: Path) -> None:
    assert infer_data_config_from_path(tmp_path).bucket_step == 64
    assert infer_data_config_from_path(tmp_path, size=128).bucket_step == 8
    assert infer_data_config_from_path(tmp_path, size=128, step=32).bucket_step == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data]\nkind = "scenes"', r"names no pictures of one's own: expected a table \[data\]"),
        ("x = 1", "names no pictures of one's own"),
        ("x =", "Cannot read"),
        ('[data]\nkind = "pictures"\nfoldr = "a"', "'data.foldr'. Did you mean 'folder'"),
        (
            '[data]\nkind = "pictures"\n[[data.subsets]]\nfolder = "a"\nrepeat = 2',
            r"'data\.subsets\.0\.repeat'\. Did you mean 'repeats'",
        ),
        ('[data]\nkind = "pictures"\nfolder = "a"\nsize = "x"', "data.size: Input should be"),
    ],
)
def test_what_a_file_says_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ArgumentError, match=message):
        infer_data_config_from_path(tmp_path / "run.toml")


def test_what_is_none_of_these_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"a folder of pictures, a \.jsonl of preference pairs, a \.tar"
    ):
        infer_data_config_from_path(tmp_path / "nowhere")
