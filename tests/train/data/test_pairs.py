"""Preference pairs from a JSONL file: better and worse picture of each, and wrong lines."""

import json
import pickle
from pathlib import Path

import pytest

from t2i.errors import DataError
from tests.train.data.making import colour_of, plain
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig

PAIRS = (
    {"caption": "a red sheet", "win": "a/red.png", "lose": "b/blue.png"},
    {"caption": ["a red sheet", "red"], "win": "a/red.png", "lose": "b/green.png"},
    {"caption": "a blue sheet", "win": "b/blue.png", "lose": "a/red.png"},
)


def pairs_file(folder: Path, *rows: object) -> Path:
    for place, colour in (("a", "red"), ("b", "blue"), ("b", "green")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        plain(colour).save(folder / place / f"{colour}.png")
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or PAIRS))
    return path


def pictures_of(path: Path, **settings: object) -> Pictures:
    tree = {"size": 32, "subsets": [{"pairs": path}], **settings}
    return Pictures(PictureDatasetConfig.model_validate(tree))


def test_each_line_is_a_pair_with_its_caption(tmp_path: Path) -> None:
    pictures = pickle.loads(pickle.dumps(pictures_of(pairs_file(tmp_path))))
    assert len(pictures) == pictures.count_preference_pairs() == 3
    found = []
    for index in range(3):
        sample = pictures.read_example(index, 0)
        assert sample.loser is not None
        found.append((sample.caption, colour_of(sample.pixels), colour_of(sample.loser)))
    assert found[0] == ("a red sheet", "red", "blue")
    assert found[1][0] in PAIRS[1]["caption"]
    assert found[1][1:] == ("red", "green")
    assert found[2] == ("a blue sheet", "blue", "red")
    assert pictures.list_captions_of_all_pictures() == {"a red sheet", "red", "a blue sheet"}


def test_a_picture_in_several_pairs_is_no_duplicate_and_a_repeated_pair_is(tmp_path: Path) -> None:
    assert pictures_of(pairs_file(tmp_path)).build_summary().duplicates == []
    again = pictures_of(pairs_file(tmp_path, *PAIRS, PAIRS[0])).build_summary()
    assert again.duplicates == [[str(tmp_path / "a/red.png")] * 2]
    assert again.pairs == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"win": "a/red.png", "lose": "b/blue.png"}, "line 2: no 'caption'; expected the prompt"),
        ({**PAIRS[0], "caption": " "}, "line 2: no 'caption'; expected the prompt"),
        ({**PAIRS[0], "caption": 7}, "line 2: the caption is 7; expected a string or a list"),
        ({"caption": "x", "win": "a/red.png"}, "line 2: no 'lose'; expected the path of a picture"),
        (
            {"caption": "x", "winn": "a/red.png", "lose": "b/blue.png"},
            "line 2: no 'win'; .*two sides. Did you mean 'winn'",
        ),
        ({**PAIRS[0], "lose": None}, "line 2: 'lose' is None; expected the path of a picture"),
        ({**PAIRS[0], "lose": "a/red.png"}, "line 2: win and lose are the same file, 'a/red.png'"),
        ({**PAIRS[0], "lose": "./a/red.png"}, "line 2: win and lose are the same file"),
        ({**PAIRS[0], "lose": "../x.png"}, "line 2: '../x.png' leads out of the folder"),
        ({**PAIRS[0], "win": "/x.png"}, "line 2: '/x.png' leads out of the folder"),
        (["a/red.png", "b/blue.png"], "line 2: expected an object, got"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"pairs.jsonl, {message}"):
        pictures_of(pairs_file(tmp_path, PAIRS[0], row))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = pairs_file(tmp_path)
    with pytest.raises(DataError, match=r"No such file of pairs: .*none.jsonl"):
        pictures_of(tmp_path / "none.jsonl")
    path.write_text(path.read_text() + '{"caption": ')
    with pytest.raises(DataError, match=r"pairs.jsonl, line 4: "):
        pictures_of(path)
    path.write_text("\n")
    with pytest.raises(DataError, match=r"No pictures in .*pairs.jsonl"):
        pictures_of(path)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("a/red.png", r"red.png: is not there"),
        ("b/green.png", r"red.png: the worse one of its pair: is not there"),
    ],
)
def test_a_missing_file_is_a_broken_picture(tmp_path: Path, lost: str, message: str) -> None:
    path = pairs_file(tmp_path, PAIRS[1])
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match=message):
        pictures_of(path)


def test_two_files_of_equal_content_are_no_pair(tmp_path: Path) -> None:
    path = pairs_file(tmp_path, *PAIRS)
    (tmp_path / "b/green.png").write_bytes((tmp_path / "a/red.png").read_bytes())
    with pytest.raises(DataError, match=r"red.png: the worse one of its pair: is the same picture"):
        pictures_of(path)
