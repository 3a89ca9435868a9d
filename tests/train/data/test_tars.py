"""webdataset's shards, on disk and on a web server."""

import gzip
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.errors import ArgumentError, DataError
from tests.train.data.making import NAMES, colour_of, plain
from train.data.decode import BrokenPictureError
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sources import remote
from train.data.sources.tars import (
    TarMemberBytes,
    expand_braces,
    expand_tar_patterns,
    list_tar_pictures,
)
from train.data.subsets import SubsetConfig


def png(colour: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    plain(colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shards(folder: Path) -> str:
    """Two of them, four colours each."""
    for shard in range(2):
        files = {}
        for colour in NAMES[4 * shard : 4 * shard + 4]:
            files |= {f"{colour}.png": png(colour), f"{colour}.txt": f"a {colour} one".encode()}
        tar_of(folder / f"data-{shard:03}.tar", files)
    return str(folder / "data-{000..001}.tar")


def pictures_of(tars: str, **keys: object) -> Pictures:
    subset = SubsetConfig(tars=tars)
    return Pictures(PictureDatasetConfig(size=32, bucket_step=8, subsets=(subset,), **keys))


def test_each_picture_comes_with_the_caption_of_its_name(tmp_path: Path) -> None:
    pictures = pictures_of(shards(tmp_path))
    assert len(pictures) == 8
    for index in (5, 0, 7, 3, 0):
        sample = pictures.read_example(index, 11)
        assert sample.caption == f"a {colour_of(sample.pixels)} one"
        assert sample.name == f"{tmp_path}/data-{index // 4:03}.tar!{NAMES[index]}.png"


def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "w-%02d.tar"), maxcount=3, verbose=0) as sink:
        for number, colour in enumerate(NAMES):
            sink.write(
                {
                    "__key__": f"deep/{number:04}",
                    "jpg": np.asarray(plain(colour)),
                    "json": {"caption": f"a {colour} one", "width": 40},
                }
            )
    pictures = pictures_of(str(tmp_path / "w-*.tar"))
    theirs = webdataset.WebDataset(
        sorted(map(str, tmp_path.glob("w-*.tar"))), shardshuffle=False
    ).decode("rgb8")
    read = [pictures.read_example(index, 0) for index in range(len(pictures))]
    expected = [(colour_of(one["jpg"]), one["json"]["caption"]) for one in theirs]
    assert [(colour_of(one.pixels), one.caption) for one in read] == expected
    assert len(expected) == 8


def test_captions_of_json_may_be_lists_and_columns_be_named(tmp_path: Path) -> None:
    row = {"text": ["one", "two"], "en": "three"}
    path = tar_of(tmp_path / "a.tar", {"a.png": png("red"), "a.json": json.dumps(row).encode()})
    assert list_tar_pictures([str(path)]).pictures[0].captions == ("one", "two")
    assert list_tar_pictures([str(path)], "en").pictures[0].captions == ("three",)


def test_a_name_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    files = [
        ("a.png", png("red")),
        ("a.txt", b"a red one"),
        ("a.png", png("green")),
        ("a.txt", b"a green one"),
    ]
    pictures = pictures_of(str(tar_of(tmp_path / "a.tar", files)))
    for index in range(2):
        sample = pictures.read_example(index, 0)
        assert sample.caption == f"a {colour_of(sample.pixels)} one"


def test_a_mask_among_the_files_is_the_mask(tmp_path: Path) -> None:
    mask = io.BytesIO()
    half = Image.new("L", (40, 40))
    half.paste(255, (0, 0, 20, 40))
    half.save(mask, "PNG")
    files = {"a.png": png("red"), "a.mask.png": mask.getvalue(), "a.txt": b"a"}
    sample = pictures_of(str(tar_of(tmp_path / "a.tar", files))).read_example(0, 0)
    assert sample.loss_mask is not None
    assert sample.loss_mask[:, :14].min() > 250
    assert sample.loss_mask[:, 18:].max() < 5


def test_a_shard_cut_short_is_told_and_the_rest_of_it_used(tmp_path: Path) -> None:
    files = {f"{colour}.png": png(colour) for colour in NAMES}
    path = tar_of(tmp_path / "a.tar", files)
    data = path.read_bytes()
    path.write_bytes(data[: 512 * 7 + 40])  # in the midst of the fourth picture
    listing = list_tar_pictures([str(path)])
    assert 3 <= len(listing.pictures) <= 4
    assert re.search(r"a\.tar: is no whole tar archive \(", str(listing.broken[0]))
    with pytest.raises(DataError, match=r"a\.tar: is no whole tar archive"):
        pictures_of(str(path))


def test_damaged_texts_break_their_pictures(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"a.png": png("red"), "a.json": b"{", "b.txt": b"x"})
    listing = list_tar_pictures([str(path)])
    assert re.search(
        r"a\.tar!a\.png: its a\.json cannot be used: Expecting", str(listing.broken[0])
    )
    assert listing.notes == [f"{path}: no picture among b.txt"]


def test_a_compressed_shard_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"a.png": png("red")})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"is compressed, so that .* decompress it first"):
        list_tar_pictures([str(tmp_path / "a.tar.gz")])


def test_patterns_stand_for_files(tmp_path: Path) -> None:
    assert expand_braces("a-{008..011}{x,y}.tar")[:3] == ["a-008x.tar", "a-008y.tar", "a-009x.tar"]
    assert expand_braces("a{9..10}") == ["a9", "a10"]
    shards(tmp_path)
    both = [str(tmp_path / "data-000.tar"), str(tmp_path / "data-001.tar")]
    assert expand_tar_patterns([str(tmp_path / "data-*.tar")]) == both
    assert expand_tar_patterns([both[1], both[0], both[1]]) == both[::-1]
    with pytest.raises(DataError, match=r"No such archive: .*data-002\.tar"):
        expand_tar_patterns([str(tmp_path / "data-{000..002}.tar")])
    with pytest.raises(DataError, match=r"No such archive: .*other-\*\.tar"):
        expand_tar_patterns([str(tmp_path / "other-*.tar")])
    with pytest.raises(ArgumentError, match=r"\{3\.\.1\} in .* counts from 3 to 1"):
        expand_tar_patterns(["a{3..1}.tar"])
    with pytest.raises(ArgumentError, match=r"'s3://b/a.tar' cannot be read in place; expected a"):
        expand_tar_patterns(["s3://b/a.tar"])


class Server(BaseHTTPRequestHandler):
    """A folder, by ranges; `failing` answers of 503 come first, whole files where asked."""

    folder: Path
    failing = 0
    ranges = True
    asked: list[str]

    def do_GET(self) -> None:
        cls = type(self)
        cls.asked.append(f"{self.path} {self.headers.get('Range')}")
        if cls.failing > 0:
            cls.failing -= 1
            self.send_error(503)
            return
        path = cls.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert match is not None
        part = data[int(match[1]) : int(match[2]) + 1] if cls.ranges else data
        self.send_response(206 if cls.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {match[1]}-{match[2]}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"folder": tmp_path, "asked": []})
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        handler.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=partial(http.serve_forever, poll_interval=0.01))
        thread.start()
        yield handler
        http.shutdown()
        thread.join()


def test_shards_of_a_server_are_as_those_on_disk(tmp_path: Path, server: type[Server]) -> None:
    here = pictures_of(shards(tmp_path))
    there = pictures_of(server.address + "/data-{000..001}.tar")
    assert there.compute_fingerprint() == here.compute_fingerprint()
    for index, visit in ((6, 1), (0, 2), (6, 3)):
        ours, theirs = here.read_example(index, visit), there.read_example(index, visit)
        assert np.array_equal(ours.pixels, theirs.pixels)
        assert ours.caption == theirs.caption
    assert there.read_example(0, 0).name == f"{server.address}/data-000.tar!red.png"


def test_of_a_server_only_the_picture_is_read(tmp_path: Path, server: type[Server]) -> None:
    shards(tmp_path)
    pictures = pictures_of(server.address + "/data-000.tar")
    server.asked.clear()
    pictures.read_example(2, 0)
    size = len(png("blue"))
    (asked,) = server.asked
    first, last = map(int, re.findall(r"\d+", asked.partition("bytes")[2]))
    assert last - first + 1 == size


def test_a_moment_without_network_is_waited_for(tmp_path: Path, server: type[Server]) -> None:
    shards(tmp_path)
    pictures = pictures_of(server.address + "/data-000.tar")
    server.failing = remote.MAX_ATTEMPTS - 1
    assert pictures.read_example(0, 0).caption == "a red one"
    server.failing = remote.MAX_ATTEMPTS
    with pytest.raises(DataError, match=r"Cannot read http.*503.*, 6 times. Go on when the net"):
        pictures.read_example(0, 0)


def test_a_server_without_ranges_is_refused_with_the_remedy(
    tmp_path: Path, server: type[Server]
) -> None:
    shards(tmp_path)
    server.ranges = False
    with pytest.raises(
        DataError, match=r"does not support range requests, .* download the archive"
    ):
        pictures_of(server.address + "/data-000.tar")
    with pytest.raises(DataError, match="does not support range requests"):
        remote.fetch_range(server.address + "/data-000.tar", 0, 9)


def test_a_shard_that_a_server_lacks_is_told(server: type[Server]) -> None:
    with pytest.raises(DataError, match=r"Cannot read http.*/none.tar: .*404.*Check the address"):
        pictures_of(server.address + "/none.tar")


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(9 << 30)  # a hole
    (broken,) = list_tar_pictures([str(path)]).broken
    assert "is no whole tar archive (a header of it claims 7,516,192,768 bytes)" in str(broken)


def test_a_mask_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.touch()
    with pytest.raises(BrokenPictureError, match="holds 8,589,934,592 bytes of one file"):
        TarMemberBytes(path, 512, 8 << 30).read()
