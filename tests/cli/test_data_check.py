"""`t2i data check`."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import Cli


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (6, 60, 90, 3), dtype=np.uint8)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels[: 60 - 8 * number]).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


def test_sound_pictures_are_counted_and_drawn(cli: Cli, mine: Path) -> None:
    done = cli("data", "check", str(mine), "--size", "64", "--out", "sheet.png")
    assert done.code == 0
    assert re.search(r"pictures  6: 6 to train on\n", done.out)
    assert re.search(r"captions  6 different\n", done.out)
    assert re.search(r"\n +80x48  2 pictures, 2 visits\n", done.out)
    assert done.out.splitlines()[-1] == "sheet.png"
    assert Image.open("sheet.png").width > 1000


def test_broken_pictures_are_named_and_end_with_4(cli: Cli, mine: Path) -> None:
    (mine / "2.png").write_bytes((mine / "1.png").read_bytes()[:900])
    (mine / "5.png").unlink()
    done = cli("data", "check", str(mine), "--size", "64", "--num", "0")
    assert done.code == 4
    assert re.search(r"1 cannot be used\n  .*2\.png: is damaged or cut short", done.out)
    assert re.search(r"1 caption without a picture: .*5\.txt", done.out)
    assert re.search(r"Error: 1 of 5 pictures cannot be used, more than data.bad_sh", done.err)
    assert not Path("outputs").exists()


def test_a_file_of_pairs_is_checked(cli: Cli, mine: Path) -> None:
    pair = '{"caption": "noise", "win": "mine/0.png", "lose": "mine/%s.png"}\n'
    path = mine.parent / "pairs.jsonl"
    (mine / "1.png").write_bytes((mine / "0.png").read_bytes())
    Image.open(mine / "0.png").rotate(180).save(mine / "2.png")
    path.write_text(pair % 2)
    done = cli("data", "check", str(path), "--size", "64", "--num", "0")
    assert done.code == 0, done.err
    assert re.search(r"\npairs +1\n", done.out)
    path.write_text(pair % 2 + pair % 1 + pair % 9)
    done = cli("data", "check", str(path), "--size", "64", "--num", "0")
    assert done.code == 4
    assert re.search(r"0\.png: the worse one of its pair: is the same picture, so nei", done.out)
    assert re.search(r"0\.png: the worse one of its pair: is not there", done.out)
    path.write_text('{"caption": "noise", "win": "mine/0.png"}\n')
    done = cli("data", "check", str(path), "--size", "64", "--num", "0")
    assert done.code == 4
    assert re.search(r"Error: .*pairs\.jsonl, line 1: no 'lose'", done.err)


def test_one_of_anything_is_said_of_one(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.txt").write_text("")
    Image.new("RGBA", (20, 20), (9, 9, 9, 9)).save(folder / "0.png")
    (folder / "x.npz").write_bytes(b"")
    done = cli("data", "check", str(folder), "--num", "0")
    for line in (
        "pictures  1: 1 to train on",
        "captions  0 different",
        "epoch     1 visit",
        "1 caption without a picture: ",
        "ignored: 1 other file",
        "1 has no caption: give one",
        "1 is enlarged to fill",
        "1 is transparent in part",
    ):
        assert re.search(f"^{line}", done.out, re.MULTILINE), line


def test_json_tells_the_same_and_ends_the_same(cli: Cli, mine: Path) -> None:
    done = cli("data", "check", str(mine), "--size", "64", "--format", "json")
    told = done.json()
    assert (done.code, told["usable"], told["found"], told["broken"]) == (0, True, 6, [])
    assert Path(told["sheet"]).is_file()
    (mine / "x.gif").write_bytes(b"GIF89a")
    done = cli("data", "check", str(mine), "--size", "64", "--format", "json", "--num", "0")
    told = done.json()
    assert (done.code, told["usable"], told["sheet"]) == (4, False, None)
    assert told["broken"][0][0].endswith("x.gif")


def test_where_nothing_can_be_used_all_is_named(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"")
    done = cli("data", "check", str(folder))
    assert done.code == 4
    assert re.search(r"1 of 1 picture cannot be used.*\n  .*x\.png: is empty", done.err)


def test_a_run_s_batch_marks_the_buckets_that_are_smaller(cli: Cli, mine: Path) -> None:
    Path("run.toml").write_text(
        f'[train]\nbatch_size = 3\n[data]\nkind = "pictures"\nsize = 64\nbucket_step = 16\n'
        f'folder = "{mine}"\n'
    )
    done = cli("data", "check", "run.toml", "--num", "0")
    assert done.code == 0
    assert re.search(r"\d 1 picture, 1 visit \*\n", done.out.replace("  ", " "))
    assert re.search(r"\* fewer visits than a batch of 3: pictures repeat in it", done.out)


def test_show_points_to_check(cli: Cli, mine: Path) -> None:
    done = cli("data", "show", str(mine))
    assert done.code == 2
    assert re.search(r"Pictures of your own: t2i data check ", done.err)


def test_the_size_is_that_of_the_model_that_is_to_be_trained(cli: Cli, model: Path) -> None:
    Path("one").mkdir()
    Image.new("RGB", (300, 300), "red").save("one/a.png")
    embedded = cli("data", "check", "one", "--num", "0").out
    assert "buckets of at most 128x128 pixels" in embedded
    assert "1 picture," in embedded
    assert "1 pictures" not in embedded
    tiny = cli("data", "check", "one", "--num", "0", "--model", model).out
    assert "buckets of at most 32x32 pixels" in tiny
    asked = cli("data", "check", "one", "--num", "0", "--size", "64").out
    assert "buckets of at most 64x64 pixels" in asked
