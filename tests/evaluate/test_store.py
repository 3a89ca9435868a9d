"""The folder of an evaluation: gone on with after a kill, and only by what it was begun with."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2i.errors import ArgumentError, OutputError
from t2i.evaluate.result_folder import IDENTITY_FILE, RECORDS_FILE, ResultFolder

IDENTITY: dict[str, Any] = {
    "model": {"name": "mine", "digest": "abc"},
    "recogniser": "def",
    "config": {"generation": {"seen": {"seed": 1, "count": 8}}},
    "libraries": {"torch": "2.13.0"},
}


def begun(folder: Path) -> ResultFolder:
    store = ResultFolder(folder, IDENTITY)
    store.append_record("generation", "seen/0", {"right": [True, False]}, 1.5)
    store.append_record("generation", "seen/1", {"right": []}, 2.0)
    store.append_record("editing", "seen/0", {"psnr": 30.25}, 0.5)
    return store


def test_another_start_finds_what_is_done(tmp_path: Path) -> None:
    before = begun(tmp_path)
    again = ResultFolder(tmp_path, IDENTITY)
    assert again.finished_units == before.finished_units
    assert again.get_part_records("generation") == {
        "seen/0": {"right": [True, False]},
        "seen/1": {"right": []},
    }
    assert again.finished_units["editing", "seen/0"].seconds == 0.5


def test_a_line_that_a_kill_cut_short_is_done_again_and_spoils_no_other(tmp_path: Path) -> None:
    begun(tmp_path)
    path = tmp_path / RECORDS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = ResultFolder(tmp_path, IDENTITY)
    assert [*again.finished_units] == [("generation", "seen/0"), ("generation", "seen/1")]
    again.append_record("editing", "seen/0", {"psnr": 30.25}, 0.5)
    assert len(ResultFolder(tmp_path, IDENTITY).finished_units) == 3
    # A crash of the machine may leave zeros where a line was to be.
    path.write_bytes(whole + b"\0" * 100)
    assert len(ResultFolder(tmp_path, IDENTITY).finished_units) == 3
    path.write_bytes(b'{"part": "gen')
    assert ResultFolder(tmp_path, IDENTITY).finished_units == {}


def test_something_else_is_refused_with_what_differs_and_nothing_is_lost(tmp_path: Path) -> None:
    begun(tmp_path)
    before = (tmp_path / RECORDS_FILE).read_bytes(), (tmp_path / IDENTITY_FILE).read_bytes()
    config = {"generation": {"seen": {"seed": 1, "count": 9}}}
    for change, words in (
        ({"model": {"name": "mine", "digest": "xyz"}}, "model.digest abc -> xyz"),
        ({"recogniser": "ghi"}, "recogniser def -> ghi"),
        ({"config": config}, "config.generation.seen.count 8 -> 9"),
        ({"config": {}}, "config.generation.seen.count 8 -> None"),
    ):
        with pytest.raises(ArgumentError, match=f"holds another evaluation: .*{words}"):
            ResultFolder(tmp_path, IDENTITY | change)
    assert (
        (tmp_path / RECORDS_FILE).read_bytes(),
        (tmp_path / IDENTITY_FILE).read_bytes(),
    ) == before


def test_other_versions_are_told_and_not_refused(tmp_path: Path) -> None:
    assert begun(tmp_path).library_changes == []
    again = ResultFolder(tmp_path, IDENTITY | {"libraries": {"torch": "2.14.0"}})
    assert again.library_changes == ["libraries.torch 2.13.0 -> 2.14.0"]
    assert len(again.finished_units) == 3


def test_a_folder_that_cannot_be_gone_on_with_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    for content, words in (
        (b'{"version": 99}', "begun.json has format 99, expected 2: another t2i wrote it"),
        (b"[1]", "begun.json has no version of its format"),
        (b"{'version': 1}", "begun.json is no JSON"),
        (b"\xff", "begun.json is no JSON"),
    ):
        (tmp_path / IDENTITY_FILE).write_bytes(content)
        with pytest.raises(
            OutputError, match=rf"Cannot continue in .*: {words}\. Choose another fo"
        ):
            ResultFolder(tmp_path, IDENTITY)
    (tmp_path / IDENTITY_FILE).unlink()
    (tmp_path / IDENTITY_FILE).mkdir()
    with pytest.raises(OutputError, match=r"begun.json cannot be read \(it is a folder\)\."):
        ResultFolder(tmp_path, IDENTITY)
    (tmp_path / IDENTITY_FILE).rmdir()
    with pytest.raises(OutputError, match=r"holds records.jsonl, but no evaluation"):
        ResultFolder(tmp_path, IDENTITY)


def test_a_record_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = ResultFolder(tmp_path, IDENTITY)
    (tmp_path / RECORDS_FILE).mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*records\.jsonl"):
        store.append_record("generation", "seen/0", {}, 0.0)


def test_pictures_are_kept_under_the_name_that_is_given_back(tmp_path: Path) -> None:
    store = ResultFolder(tmp_path, IDENTITY)
    name = store.save_picture(
        "generation/seen/0001-steps=20,guidance=3", Image.new("RGB", (4, 4), "red")
    )
    assert name == "generation-seen-0001-steps=20,guidance=3.png"
    assert Image.open(tmp_path / "pictures" / name).getpixel((0, 0)) == (255, 0, 0)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds note.txt, but no evaluation"):
        ResultFolder(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_before_the_first_unit_anything_may_be_changed(tmp_path: Path) -> None:
    ResultFolder(tmp_path, IDENTITY)
    again = ResultFolder(tmp_path, IDENTITY | {"recogniser": "other"})
    again.append_record("generation", "seen/0", {}, 1.0)
    with pytest.raises(ArgumentError, match="recogniser other -> def"):
        ResultFolder(tmp_path, IDENTITY)


def test_a_model_may_be_named_otherwise(tmp_path: Path) -> None:
    begun(tmp_path)
    named = IDENTITY | {"model": {"name": "./mine", "digest": "abc"}}
    assert len(ResultFolder(tmp_path, named).finished_units) == 3
    with pytest.raises(ArgumentError, match=r"model.digest abc -> xyz"):
        ResultFolder(tmp_path, IDENTITY | {"model": {"name": "mine", "digest": "xyz"}})


@pytest.mark.parametrize("empty", [False, True])
def test_a_unit_whose_picture_is_gone_is_done_again(tmp_path: Path, empty: bool) -> None:
    store = ResultFolder(tmp_path, IDENTITY)
    for unit in ("seen/0", "seen/1"):
        file = store.save_picture(unit, Image.new("RGB", (8, 8)))
        store.append_record("generation", unit, {"pictures": [{"number": 0, "file": file}]}, 1.0)
    assert len(ResultFolder(tmp_path, IDENTITY).finished_units) == 2
    path = tmp_path / "pictures" / file
    path.unlink()
    if empty:
        path.touch()
    assert [*ResultFolder(tmp_path, IDENTITY).finished_units] == [("generation", "seen/0")]
