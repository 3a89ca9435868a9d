"""Files that lie about themselves: refused by name, at the price of a few kilobytes."""

import contextlib
import json
import os
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.cli.metadata.reading import read_metadata
from t2i.errors import DataError
from t2i.pictures import save_picture
from tests.cli.carrying import START, chunk, png, png_of, user_comment, with_exif

TEXT = "a cat\nSteps: 20, Sampler: Euler, Seed: 5"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """40 million zeros, compressed."""
    return zlib.compress(bytes(40 * MEGABYTE))


@pytest.fixture
def cheap() -> Iterator[None]:
    """The block may take neither long nor much: a bomb would take a hundred times more."""
    tracemalloc.start()
    start = time.process_time()
    yield
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MEGABYTE
    assert seconds < 5


def test_the_story_of_a_bomb_is_told_without_decoding_it(tmp_path: Path, cheap: None) -> None:
    text = chunk(b"tEXt", b"parameters\0" + TEXT.encode())
    pixels = chunk(b"IDAT", zlib.compress(bytes(MEGABYTE))[:17_000])
    path = png_of(tmp_path / "a.png", text, pixels, size=(12_000, 12_000))
    assert read_metadata(path).prompt == "a cat"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"II*\0" + bytes(40), "a TIFF"),
        (b"MM\0*" + bytes(40), "a TIFF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"<?xml version='1.0'?><svg/>", "an SVG"),
        (b"GIF89a" + bytes(40), "a GIF"),
        (b"RIFF\0\0\0\0AVI " + bytes(40), "no picture we know"),
        (b"Steps: 20", "no picture we know"),
        (b"", "empty"),
    ],
)
def test_content_counts_and_not_the_name(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.png is {what}.*expected a PNG, JPEG or WebP"):
        read_metadata(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such picture: .*cat\.png"):
        read_metadata(tmp_path / "cat.png")
    with pytest.raises(DataError, match="is a folder, not a picture"):
        read_metadata(tmp_path)
    with pytest.raises(DataError, match=r"Cannot read .*name is longer than a file system takes"):
        read_metadata(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="it is a pipe, not a file"):
        read_metadata(tmp_path / "pipe.png")


def test_a_picture_without_a_story_says_so(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / name)
        with pytest.raises(
            DataError, match=rf"{name} has no generation metadata: it was saved without"
        ):
            read_metadata(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_a_megabyte_of_exif_is_not_read(tmp_path: Path, suffix: str, cheap: None) -> None:
    size = {"jpg": 65_000, "webp": MEGABYTE}[suffix]
    path = with_exif(tmp_path / f"a.{suffix}", {0x9286: b"UNICODE\0" + b"\0x" * (size // 2)})
    why = {"jpg": "no line that begins with", "webp": "1,000,008 bytes, at most 262,144 are read"}
    with pytest.raises(DataError, match=why[suffix]):
        read_metadata(path)


@pytest.mark.parametrize(
    ("kind", "data", "complaint"),
    [
        (b"tEXt", b"x" * MEGABYTE, r"1,000,011 bytes, at most 262,144 are read"),
        (b"zTXt", b"\0<bomb>", r"unpacks to more than the 262,144"),
        (b"iTXt", b"\1\0\0\0<bomb>", r"unpacks to more than"),
        (b"zTXt", b"\0" + zlib.compress(b"x" * 1000)[:9], "its compressed text is cut short"),
        (b"zTXt", b"\0" + b"no zlib", "Error -3 while decompressing"),
        (b"iTXt", b"\0", "an iTXt chunk cut short"),
        (b"iTXt", b"\0\0\0\0\xff\xfe", "'utf-8' codec can't decode"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, kind: bytes, data: bytes, complaint: str, bomb: bytes, cheap: None
) -> None:
    data = data.replace(b"<bomb>", bomb)
    path = png_of(tmp_path / "a.png", chunk(kind, b"parameters\0" + data))
    with pytest.raises(DataError, match=rf"metadata that can be read: parameters: .*{complaint}"):
        read_metadata(path)


def test_many_texts_under_one_key_cost_as_much_as_one(tmp_path: Path, cheap: None) -> None:
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(262_000)))
    path = png_of(tmp_path / "a.png", *[bomb] * 20_000)
    assert len(read_embedded_texts(path).texts["parameters"]) == 262_000


def test_a_file_of_endless_chunks_is_given_up(tmp_path: Path, cheap: None) -> None:
    path = png_of(tmp_path / "a.png", *[chunk(b"IDAT", b"")] * 100_001)
    with pytest.raises(DataError, match="more than 100,000 blocks"):
        read_metadata(path)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + b"\xff" * 200_000)
    with pytest.raises(DataError, match="more than 100,000 blocks"):
        read_metadata(tmp_path / "a.jpg")


@pytest.mark.parametrize("key", ["t2i", "prompt", "workflow", "invokeai_metadata", "sd-metadata"])
@pytest.mark.parametrize("shape", [("[", "]"), ('{"a":', "}")])
def test_json_nested_a_hundred_thousand_deep_is_refused(
    tmp_path: Path, key: str, shape: tuple[str, str], cheap: None
) -> None:
    depth = 100_000 if len(shape[0]) == 1 else 40_000
    text = shape[0] * depth + "1" + shape[1] * depth
    with pytest.raises(DataError, match=f"{key}: not JSON: it is nested more than 100 deep"):
        read_metadata(png(tmp_path / "a.png", {key: text}))


@pytest.mark.parametrize("depth", [100, 400, 900, 980, 990, 994, 996])
def test_json_just_within_the_limit_never_ends_in_a_traceback(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for key, text in (
        ("prompt", f'{{"1": {{"class_type": "K", "inputs": {{"positive": {deep}, "seed": 1}}}}}}'),
        ("invokeai_metadata", f'{{"seed": {deep}, "extra": {deep}}}'),
        ("t2i", f'{{"version": 1, "request": {{"prompt": {deep}}}}}'),
        ("parameters", f"a cat\nSteps: {deep}, Model: {deep}, More: {deep}"),
    ):
        with contextlib.suppress(DataError):
            read_metadata(png(tmp_path / "a.png", {key: text}))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_cut_anywhere_is_refused_or_read(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    save_picture(Image.new("RGB", (8, 8)), whole, {"parameters": TEXT})
    data = whole.read_bytes()
    told = 0
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with contextlib.suppress(DataError):
            told += read_metadata(path).prompt == "a cat"
    assert told < len(data) / 3
    path.write_bytes(data[: data.index(b"S")])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_metadata(path)


def test_a_story_before_the_cut_is_told_with_a_note(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", {"parameters": TEXT})
    path.write_bytes(path.read_bytes()[:-20])
    story = read_metadata(path)
    assert story.prompt == "a cat"
    assert story.not_understood == ("the file is damaged or cut short",)


def test_a_damaged_text_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", {"parameters": TEXT})
    path.write_bytes(path.read_bytes().replace(b"a cat", b"a dog"))
    with pytest.raises(DataError, match="parameters: its checksum is wrong"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("comment", "complaint"),
    [
        (b"UNICODE\0\xd8\x00\x00x", "parameters: 'utf-16-be' codec can't decode"),
        (b"UNICODE\0\x00x\x00", "parameters: 'utf-16-be' codec can't decode.*truncated"),
        (b"\xff" * 40, "parameters: 'utf-8' codec can't decode"),
    ],
)
def test_an_invalid_comment_is_refused(tmp_path: Path, comment: bytes, complaint: str) -> None:
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(DataError, match=complaint):
            read_metadata(with_exif(tmp_path / name, {0x9286: comment}))


@pytest.mark.parametrize(
    ("exif", "complaint"),
    [
        (b"XX*\0" + bytes(20), "neither byte order"),
        (b"II*\0\xff\xff\xff\xff", "Exif: unpack_from requires"),
        (b"II*\0\x08\0\0\0\xff\xff", "Exif: unpack_from requires"),
        (
            b"II*\0\x08\0\0\0\x01\0\x86\x92\x07\0\x00\x01\0\0\xff\0\0\0",
            "field 37510 ends beyond the file",
        ),
        (
            b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0",
            "has no generation metadata: ",
        ),
    ],
)
def test_exif_that_points_astray_is_refused(tmp_path: Path, exif: bytes, complaint: str) -> None:
    segment = b"Exif\0\0" + exif
    head = b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment
    (tmp_path / "a.jpg").write_bytes(head + b"\xff\xda\0\x02")
    with pytest.raises(DataError, match=complaint):
        read_metadata(tmp_path / "a.jpg")


def test_nul_bytes_are_kept_and_harm_nothing(tmp_path: Path) -> None:
    text = f"a\0cat{TEXT}"
    assert read_metadata(png(tmp_path / "a.png", {"parameters": text})).prompt == "a\0cata cat"
    path = with_exif(tmp_path / "a.jpg", {0x9286: user_comment(text)})
    assert read_metadata(path).prompt == "a\0cata cat"


def test_a_flood_of_nodes_is_named_in_short(tmp_path: Path, cheap: None) -> None:
    nodes = {str(i): {"class_type": f"Node{i}", "inputs": {}} for i in range(4000)}
    nodes["5000"] = {"class_type": "KSampler", "inputs": {"positive": "x", "seed": 1}}
    story = read_metadata(png(tmp_path / "a.png", {"prompt": json.dumps(nodes)}))
    assert len(story.not_understood) == 101
    assert story.not_understood[-1] == "and 3,900 more"


def test_a_graph_of_many_samplers_takes_no_more_than_its_length(
    tmp_path: Path, cheap: None
) -> None:
    chain = {
        str(i): {
            "class_type": "K",
            "inputs": {"positive": 1, "seed": 1, "samples": [str(i + 1), 0]},
        }
        for i in range(2500)
    }
    assert read_metadata(png(tmp_path / "a.png", {"prompt": json.dumps(chain)})).settings.seed == 1
    shared = {str(i): {"class_type": "K", "inputs": {"noise": ["x", 0]}} for i in range(2500)}
    inputs = {"positive": 1, "seed": 7} | {f"a{i}": 0 for i in range(8000)}
    shared["x"] = {"class_type": "K", "inputs": inputs}
    story = read_metadata(png(tmp_path / "b.png", {"prompt": json.dumps(shared)}))
    assert story.settings.seed == 7


@pytest.mark.parametrize(
    "line",
    [
        f"Steps: 1,{' ' * 200_000}",
        f"Steps: {'[' * 200_000}",
        "Steps: 1, " + 'a: "x, ' * 30_000,
        "Steps: 1, " + "a: [1, " * 30_000,
        "Steps: 1" + "," * 200_000,
        f"Steps: {':' * 200_000}",
    ],
)
def test_a_line_of_settings_takes_time_by_its_length_only(
    tmp_path: Path, line: str, cheap: None
) -> None:
    assert (
        read_metadata(png(tmp_path / "a.png", {"parameters": f"a cat\n{line}"})).prompt == "a cat"
    )


def test_settings_without_end_are_named_in_short(tmp_path: Path) -> None:
    text = "a cat\nSteps: 20, " + ", ".join(f"n{i}: 0" for i in range(600)) + ", Seed: 5"
    story = read_metadata(png(tmp_path / "a.png", {"parameters": text}))
    assert (story.settings.num_inference_steps, story.settings.seed) == (20, None)
    assert story.not_understood[0].startswith("after 500 settings: n499: 0, n500: 0")


@given(st.binary(max_size=400), st.sampled_from([START, b"\xff\xd8\xff\xe1", b"RIFF    WEBP"]))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_and_never_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.png"
    path.write_bytes(start + data)
    with pytest.raises(DataError):
        read_metadata(path)
