"""The layouts people have their pictures in."""

import json
from pathlib import Path

import pytest

from t2i.errors import DataError
from tests.train.data.making import folder_of, plain
from train.data.sources.folder import PictureFolderOptions, list_picture_folder
from train.data.sources.listing import PictureListing


def told(listing: PictureListing, folder: Path) -> dict[str, tuple[str, ...]]:
    return {
        str(Path(picture.name).relative_to(folder)): picture.captions
        for picture in listing.pictures
    }


def test_a_worse_picture_without_a_better_one_is_told(tmp_path: Path) -> None:
    folder_of(tmp_path / "win", "red", "blue")
    folder_of(tmp_path / "lose", "red", "blue", captions=False)
    plain("green").save(tmp_path / "lose/alone.png")
    found = list_picture_folder(tmp_path / "win", PictureFolderOptions(losers=tmp_path / "lose"))
    assert [Path(one.name).stem for one in found.pictures] == ["00-red", "01-blue"]
    assert f"1 worse picture without a better one: {tmp_path}/lose/alone.png" in found.notes


def test_texts_beside_the_pictures_are_their_captions(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green")
    (folder / "00-red.txt").write_text("\ufeffa red sheet,\n  on the wall \n", "utf-8")
    plain("blue").save(folder / "02-blue.JPG", "JPEG")
    (folder / "02-blue.caption").write_text("a blue one")
    plain("cyan").save(folder / "03-cyan.webp")
    plain("black").save(folder / "04.PNG")
    (folder / "04.TXT").write_text("as some systems name it")
    assert told(list_picture_folder(folder), folder) == {
        "00-red.png": ("a red sheet, on the wall",),
        "01-green.png": ("a green sheet",),
        "02-blue.JPG": ("a blue one",),
        "03-cyan.webp": (),
        "04.PNG": ("as some systems name it",),
    }


def test_another_suffix_of_captions_can_be_asked_for(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    (folder / "00-red.tags").write_text("sheet, red")
    listing = list_picture_folder(folder, PictureFolderOptions(caption_suffixes=(".tags",)))
    assert told(listing, folder) == {"00-red.png": ("sheet, red",)}


@pytest.mark.parametrize("key", ["text", "caption", "captions"])
def test_metadata_lines_are_the_captions(tmp_path: Path, key: str) -> None:
    folder = folder_of(tmp_path, "red", "green", "blue", captions=False)
    folder_of(folder / "more", "cyan", captions=False)
    rows = [
        {"file_name": "00-red.png", key: "the red one"},
        {"file_name": "./01-green.png", key: ["green", "a green one"]},
        {"file_name": "more/00-cyan.png", key: "cyan, below"},
        {"file_name": "02-blue.png", key: None},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert told(list_picture_folder(folder), folder) == {
        "00-red.png": ("the red one",),
        "01-green.png": ("green", "a green one"),
        "02-blue.png": (),
        "more/00-cyan.png": ("cyan, below",),
    }


def test_a_table_of_commas_is_read_and_quotes_hold_commas(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green", captions=False)
    (folder / "metadata.csv").write_text(
        'file_name,width,text\r\n00-red.png,40,"red, and ""plain"""\r\n01-green.png,43,\r\n'
    )
    assert told(list_picture_folder(folder), folder) == {
        "00-red.png": ('red, and "plain"',),
        "01-green.png": (),
    }


def test_pictures_without_a_row_keep_their_place_and_their_text(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green")
    (folder / "metadata.jsonl").write_text('{"file_name": "00-red.png", "text": "of the table"}')
    assert told(list_picture_folder(folder), folder) == {
        "00-red.png": ("of the table",),
        "01-green.png": ("a green sheet",),
    }


def test_rows_without_a_picture_are_broken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    (folder / "clip.mp4").write_bytes(b"x")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "gone.png", "text": "a"}\n{"file_name": "clip.mp4", "text": "b"}'
    )
    assert [str(one) for one in list_picture_folder(folder).broken] == [
        f"{folder}/clip.mp4: named in the metadata, but its suffix is no picture's",
        f"{folder}/gone.png: named in the metadata, but is not there",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "a.png"}', r"metadata.jsonl, line 2: no 'file_name'. .*Choices: file\."),
        ('{"file_name": "../a.png", "text": ""}', r"line 2: '../a.png' leads out of the folder"),
        ('{"file_name": "/a.png", "text": ""}', r"line 2: '/a.png' leads out of the folder"),
        ('{"file_name": "a.png", "text": 3}', r"line 2: the caption is 3; expected a string"),
        ('{"file_name": "a.png", "txt": ""}', r"line 2: none of the columns is called 'text', "),
        ('{"file_name": "a.png", "text": "", "caption": ""}', r"line 2: .*'text' or 'caption'\?"),
        ("[]", r"line 2: expected an object, got \[\]"),
        ("{", r"line 2: Expecting property name"),
    ],
)
def test_a_wrong_line_of_metadata_is_named(tmp_path: Path, line: str, message: str) -> None:
    folder = folder_of(tmp_path, "red")
    (folder / "metadata.jsonl").write_text('{"file_name": "00-red.png", "text": "a"}\n' + line)
    with pytest.raises(DataError, match=message):
        list_picture_folder(folder)


def test_the_column_of_captions_can_be_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", captions=False)
    (folder / "metadata.jsonl").write_text('{"file_name": "00-red.png", "text": "a", "en": "b"}')
    listing = list_picture_folder(folder, PictureFolderOptions(caption_column="en"))
    assert told(listing, folder) == {"00-red.png": ("b",)}
    with pytest.raises(DataError, match=r"no column 'fr'. Choices: en, file_name, text"):
        list_picture_folder(folder, PictureFolderOptions(caption_column="fr"))


def test_two_tables_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).write_text("file_name,text\n")
    with pytest.raises(DataError, match=r"holds both metadata.jsonl and metadata.csv: keep one"):
        list_picture_folder(folder)


def test_folders_named_by_kohya_repeat_and_give_their_words(tmp_path: Path) -> None:
    folder_of(tmp_path / "10_sks dog", "red", captions=False)
    folder_of(tmp_path / "10_sks dog" / "deeper", "blue", captions=False)
    folder_of(tmp_path / "2_cat", "green")
    listing = list_picture_folder(tmp_path)
    assert [(one.captions, one.repeats) for one in listing.pictures] == [
        (("sks dog",), 10),
        (("sks dog",), 10),
        (("a green sheet",), 2),
    ]
    assert listing.notes == [
        "10_sks dog: each picture 10 times; caption 'sks dog' if none",
        "2_cat: each picture 2 times; caption 'cat' if none",
    ]


@pytest.mark.parametrize("names", [("2023_paris", "2024_rome"), ("10_sks", "others"), ("0_a",)])
def test_other_folders_are_only_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        folder_of(tmp_path / name, "red", captions=False)
    listing = list_picture_folder(tmp_path)
    assert [(one.captions, one.repeats) for one in listing.pictures] == [((), 1)] * len(names)


def test_hidden_files_and_folders_are_no_part_of_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    folder_of(folder / ".thumbnails", "green")
    folder_of(folder / "__MACOSX", "green")
    plain("green").save(folder / "._00-red.png")
    listing = list_picture_folder(folder)
    assert list(told(listing, folder)) == ["00-red.png"]
    assert listing.notes == []


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red")
    (folder / "old.gif").write_bytes(b"GIF89a")
    (folder / "a.npz").write_bytes(b"")
    (folder / "README").write_text("")
    (folder / "lost.txt").write_text("a lost caption")
    listing = list_picture_folder(folder)
    assert list(told(listing, folder)) == ["00-red.png", "old.gif"]
    assert listing.notes == [
        f"1 caption without a picture: {folder}/lost.txt",
        "ignored: 2 other files (1 README, 1 .npz)",
    ]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "red")
    elsewhere = folder_of(tmp_path / "elsewhere", "green")
    (folder / "again").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    assert list(told(list_picture_folder(folder), folder)) == ["00-red.png", "linked/00-green.png"]


def test_masks_are_found_by_name_and_are_no_pictures(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green")
    folder_of(folder / "sub", "cyan")
    masks = folder / "masks"
    (masks / "sub").mkdir(parents=True)
    plain("black").save(masks / "00-red.png")
    plain("black").save(masks / "sub" / "00-cyan.jpg")
    listing = list_picture_folder(folder, PictureFolderOptions(masks=masks))
    found = [
        (Path(one.name).name, one.mask and Path(one.mask.path).name) for one in listing.pictures
    ]
    assert found == [
        ("00-red.png", "00-red.png"),
        ("01-green.png", None),
        ("00-cyan.png", "00-cyan.jpg"),
    ]


def test_a_caption_that_is_no_text_breaks_its_picture(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green")
    (folder / "00-red.txt").write_bytes(b"caf\xe9")
    (folder / "01-green.txt").write_bytes(b"a" * 70_000)
    assert [str(one) for one in list_picture_folder(folder).broken] == [
        f"{folder}/00-red.png: its caption 00-red.txt cannot be used: it is not UTF-8 "
        "text (line 1, byte 4)",
        f"{folder}/01-green.png: its caption 01-green.txt cannot be used: it has 70,000 "
        "bytes, at most 65,536 are read",
    ]


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such folder of pictures: .*/nowhere\. Check"):
        list_picture_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file, not a folder of pictures"):
        list_picture_folder(tmp_path / "file")
    with pytest.raises(DataError, match="No such folder of masks"):
        list_picture_folder(tmp_path, PictureFolderOptions(masks=tmp_path / "nowhere"))
