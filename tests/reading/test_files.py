"""What others wrote is opened as a regular file of bounded size, or refused in words at once."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2i.cli.bulk.prompts_file import read_prompts_file
from t2i.cli.metadata.reading import read_metadata
from t2i.denoiser.loading.weight_checks import read_json_object as read_model_json
from t2i.denoiser.loading.weight_checks import read_tensor_shapes
from t2i.errors import DataError, T2IError
from t2i.pictures import open_picture
from t2i.safe_reading import (
    CAPTION_KIND,
    CONFIG_KIND,
    UnsafeFileError,
    UntrustedFileKind,
    iterate_numbered_byte_lines,
    open_regular_file,
    open_untrusted_file,
    read_bounded,
    read_bytes,
    read_text,
    read_toml,
)
from train.data.config_from_path import infer_data_config_from_path
from train.data.discovery import list_and_check_pictures
from train.data.sources.kohya import load_kohya_subsets_and_unused_key_notes
from train.data.sources.metadata import read_captions_from_csv_or_jsonl
from train.data.sources.tars import list_tar_pictures

SMALL = UntrustedFileKind("note", 10)

NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}
READERS: dict[str, Callable[[Path], object]] = {
    "x.png": open_picture,
    "story.png": read_metadata,
    "x.txt": read_prompts_file,
    "x.jsonl": lambda path: read_captions_from_csv_or_jsonl(path, None),
    "x.tar": lambda path: list_tar_pictures([str(path)]),
    "run.toml": infer_data_config_from_path,
    "kohya.toml": lambda path: load_kohya_subsets_and_unused_key_notes(path, 64),
    "config.json": read_model_json,
    "x.safetensors": read_tensor_shapes,
}


@pytest.fixture(autouse=True)
def _short_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 100 letters


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_pipe_or_eats_a_device(name: str, what: str) -> None:
    NO_FILES[what](Path(name))
    begun = time.monotonic()
    with pytest.raises(T2IError, match=rf"it is a {what}, not a file|No such archive"):
        READERS[name](Path(name))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("what", NO_FILES)
def test_a_picture_or_caption_that_is_no_file_breaks_that_picture_alone(what: str) -> None:
    from PIL import Image

    folder = Path("pictures")
    folder.mkdir()
    for name in ("good", "bad caption"):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    NO_FILES[what](folder / "bad caption.txt")
    NO_FILES[what](folder / "bad picture.png")
    found = list_and_check_pictures(infer_data_config_from_path(folder))
    assert [Path(one.entry.name).name for one in found.pictures] == ["good.png"]
    assert len(found.broken) == 2
    assert all(f"it is a {what}, not a file" in str(one) for one in found.broken)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("none", r"No such note: none\. Check the path"),
        ("large/none", r"No such note: large/none\. Check the path"),
        (".", r"\. is a folder, not a note: name one of its files"),
        ("large", r"Cannot read the note large: it has 11 bytes, at most 10 are read"),
        ("circle", r"Cannot read the note circle: its links lead around in a circle"),
        (
            "x" * 300,
            r"Cannot read the note x{200}\.\.\.: the name is longer than a file system takes",
        ),
        ("a\0b", r"no file can be called so \(a NUL, or half of a character\)"),
        ("\ud800", r"no file can be called so \(a NUL, or half of a character\)"),
    ],
)
def test_what_cannot_be_read_is_named_in_words(name: str, complaint: str) -> None:
    Path("large").write_bytes(bytes(11))
    Path("circle").symlink_to("circle")
    for read in (read_bytes, lambda path, kind: open_untrusted_file(path, kind).__enter__()):
        with pytest.raises(DataError, match=complaint):
            read(name, SMALL)


def test_a_file_that_is_said_to_be_empty_is_still_bounded() -> None:
    with pytest.raises(UnsafeFileError, match="more than the 10 bytes"):
        read_bounded("/proc/self/status", 10)


def test_a_link_to_a_file_is_the_file() -> None:
    Path("file").write_text("a cat")
    Path("link").symlink_to("file")
    with open_regular_file("link") as file:
        assert file.read() == b"a cat"


def test_text_is_utf8_and_a_fault_has_its_place() -> None:
    Path("a").write_bytes(b"\xef\xbb\xbfa cat")
    assert read_text("a", CAPTION_KIND) == "a cat"
    Path("a").write_bytes(b"a cat\nand\xff")
    with pytest.raises(DataError, match=r"Cannot read the caption a: .*line 2, byte 10"):
        read_text("a", CAPTION_KIND)
    Path("a").write_bytes("a cat".encode("utf-16"))
    with pytest.raises(DataError, match="it is UTF-16: save it as UTF-8"):
        read_text("a", CAPTION_KIND)


def test_only_a_line_feed_ends_a_line_and_no_line_is_read_whole_that_is_too_long() -> None:
    Path("a").write_bytes("\ufeffone\u2028still\x0bone\n".encode() + bytes(99))
    with open_regular_file("a") as file:
        first, second, *_ = iterate_numbered_byte_lines(file, 20)
    assert first == (1, "one\u2028still\x0bone\n".encode())
    assert (second[0], len(second[1])) == (2, 21)


def test_a_config_that_is_no_toml_is_named() -> None:
    Path("a.toml").write_text("a = ")
    with pytest.raises(T2IError, match=r"Cannot read the config a\.toml as TOML: Invalid value"):
        read_toml("a.toml", CONFIG_KIND)
