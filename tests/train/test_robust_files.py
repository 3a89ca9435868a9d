"""Disks that are full and pictures that are broken, all the way through a run."""

import json
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from t2i.errors import ArgumentError, DataError, OutputError
from tests.train.data.making import noise
from tests.train.states import assert_same_end, logged, newest
from tests.train.tuning import pictures, tuning, write_tuning
from train.config.load_config import load_run_config
from train.loop import TrainingRun, run_training
from train.step import TrainingStepper

NO_CACHE = ("cache.latents=false", "cache.texts=false")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within the block the system lets no file grow beyond so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_from_step(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """Fill the disk after so many steps; what it returns makes room again."""
    step, blocks = TrainingStepper.step, files_of_at_most(20_000)

    def filling(self: TrainingStepper, done: int, parts: list) -> object:
        outcome = step(self, done, parts)
        if done + 1 == number:
            blocks.__enter__()
        return outcome

    monkeypatch.setattr(TrainingStepper, "step", filling)
    return lambda: blocks.__exit__(None, None, None)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


STEPS = ("train.steps=5", "train.checkpoint_every=2", *NO_CACHE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run with room enough, beside its TOML; to be read only."""
    folder = tmp_path_factory.mktemp("room")
    run_training(tuning(folder, base, "full", *STEPS), folder / "whole")
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "settings", "named"),
    [
        (4, (), "checkpoints/step-00000004"),
        pytest.param(
            *(3, ("ema.kind=power", "ema.snapshot_every=3"), "ema/step-00000003.safetensors"),
            marks=pytest.mark.long,  # written as a checkpoint is
        ),
        (5, (), "model"),
    ],
    ids=["a checkpoint", "a snapshot", "the results"],
)
def test_a_full_disk_ends_a_run_that_goes_on_where_there_is_room(
    step: int, settings: tuple[str, ...], named: str,
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = load_run_config(whole.parent / "full.toml", [*STEPS, *settings])
    if settings:
        whole = tmp_path / "whole"
        run_training(config, whole)
    with monkeypatch.context() as patch:
        if named == "model":
            export = TrainingRun.export

            def full(self: TrainingRun) -> None:
                with files_of_at_most(20_000):
                    export(self)

            patch.setattr(TrainingRun, "export", full)
            ensure_free_space: Callable[[], None] = lambda: None  # noqa: E731
        else:
            ensure_free_space = full_from_step(patch, step)
        try:
            with pytest.raises(OutputError, match=rf"Cannot write .*{named}.*[Tt]oo large"):
                run_training(config, tmp_path / "out")
        finally:
            ensure_free_space()
    left = newest(tmp_path / "out").step
    assert left == (5 if named == "model" else 2)
    whole_or_nothing = [p for p in (tmp_path / "out").rglob("*.part") if p.exists()]
    assert not whole_or_nothing
    assert not (tmp_path / "out" / "model").exists()

    run_training(config, tmp_path / "out")
    assert_same_end(whole, tmp_path / "out")


@pytest.mark.slow
def test_a_full_disk_while_latents_are_cached_leaves_no_half_file(
    base: Path, tmp_path: Path
) -> None:
    config = tuning(tmp_path, base, "lora", "train.steps=2")
    with files_of_at_most(6_000), pytest.raises(OutputError, match=r"Cannot write .*cache"):
        run_training(config, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()
    run_training(config, tmp_path / "out")
    run_training(config, tmp_path / "whole")
    assert_same_end(tmp_path / "whole", tmp_path / "out")


def bomb(path: Path, side: int = 20_000) -> None:
    """A PNG of a few bytes that would unfold into 1.2 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def break_some(folder: Path) -> dict[str, str]:
    """Add pictures that cannot be used: their names, and what should be said of them."""
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    noise(1, 60, 60).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:4000])
    bomb(folder / "giant.png")
    (folder / "text.png").write_text("not a picture")
    lines = [{"file_name": path.name, "text": "cat"} for path in sorted(folder.glob("*.png"))]
    lines += [{"file_name": "missing.png", "text": "cat"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "00.png").rename(folder / "renamed.png")
    return {
        "corrupt.png": "damaged|no picture",
        "cut.png": "damaged",
        "giant.png": "20000x20000 pixels|far more pixels",
        "text.png": "no picture",
        "missing.png": "not there|missing|no such|absent",
        "00.png": "not there|missing|no such|absent",
    }


def test_broken_pictures_over_the_limit_stop_a_run_before_its_first_step(
    base: Path, tmp_path: Path
) -> None:
    toml = write_tuning(tmp_path, base, "lora")
    broken = break_some(tmp_path / "things")
    with pytest.raises(DataError, match=r"6 of 15 pictures cannot be used.*bad_share = 0.01") as e:
        run_training(load_run_config(toml), tmp_path / "out")
    told = str(e.value).splitlines()
    for name, why in broken.items():
        line = next(line for line in told if name in line)
        assert any(reason in line for reason in why.split("|")), line
    assert "log.jsonl" not in files_in(tmp_path / "out")


@pytest.mark.slow
def test_broken_pictures_under_the_limit_are_named_and_the_others_trained_on(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    toml = write_tuning(tmp_path, base, "lora")
    broken = break_some(tmp_path / "things")
    assert run_training(
        load_run_config(toml, ["data.bad_share=0.5", "train.steps=4"]), tmp_path / "out"
    )
    said = capfd.readouterr().err
    for name in broken:
        assert said.count(f"{name}:") == 1
    assert newest(tmp_path / "out").step == 4


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), NO_CACHE], ids=["cached", "encoded as it goes"])
def test_a_picture_that_vanishes_on_the_way_is_named_once_and_the_run_finishes(
    settings: tuple[str, ...], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three steps of four rows see each of the nine pictures.
    settings = ("data.bad_share=0.2", "data.check=quick", "train.steps=3", *settings)
    config = tuning(tmp_path, base, "lora", *settings)
    data = TrainingRun.__init__

    def vanishing(self: TrainingRun, *arguments: object, **named: object) -> None:
        from train import loop

        before = loop.load_run_dataset

        def then_vanish(*these: object) -> object:
            found = before(*these)
            (tmp_path / "things" / "03.png").unlink()
            return found

        monkeypatch.setattr(loop, "load_run_dataset", then_vanish)
        data(self, *arguments, **named)
        monkeypatch.setattr(loop, "load_run_dataset", before)

    monkeypatch.setattr(TrainingRun, "__init__", vanishing)
    with pytest.warns(UserWarning, match="03.png.*another picture takes its place") as warned:
        assert run_training(config, tmp_path / "out")
    assert sum("03.png" in str(one.message) for one in warned) == 1
    assert newest(tmp_path / "out").step == 3


@pytest.mark.slow
def test_another_configuration_is_refused_before_anything_is_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = write_tuning(tmp_path, base, "lora")
    run_training(load_run_config(toml, ["train.steps=1", "rate.decay=none"]), tmp_path / "out")
    monkeypatch.setattr("train.loop.load_run_dataset", lambda *_: pytest.fail("pictures were read"))
    with pytest.raises(ArgumentError, match=r"started with another configuration: seed: \d+ -> 77"):
        run_training(
            load_run_config(toml, ["train.steps=1", "rate.decay=none", "seed=77"]), tmp_path / "out"
        )


@pytest.mark.slow
def test_what_may_change_between_two_parts_of_a_run_and_what_may_not(
    base: Path, tmp_path: Path
) -> None:
    toml = write_tuning(tmp_path, base, "pivotal")
    run_training(load_run_config(toml, ["train.steps=2", "rate.decay=none"]), tmp_path / "out")

    def go_on(*overrides: str, text: Callable[[str], str] = str) -> None:
        other = tmp_path / "other.toml"
        other.write_text(text(toml.read_text()))
        run_training(
            load_run_config(other, ["train.steps=3", "rate.decay=none", *overrides]),
            tmp_path / "out",
        )

    with pytest.raises(
        ArgumentError,
        match=r"started with another configuration: target.parts.0.rank: 2 -> 4\. Continue",
    ):
        go_on(text=lambda told: told.replace("rank = 2, modules", "rank = 4, modules"))
    with pytest.raises(ArgumentError, match=r"target.parts.2.words.1.word: <cup> -> <pot>"):
        go_on(text=lambda told: told.replace("<cup>", "<pot>"))
    with pytest.raises(ArgumentError, match=r"data.subsets.0.trigger: <mug> -> cat"):
        go_on(text=lambda told: told.replace('trigger = "<mug>"', 'trigger = "cat"'))
    more = f'[[data.subsets]]\nfolder = "{pictures(tmp_path / "more", 2, first=50)}"\n'
    with pytest.raises(ArgumentError, match=r"data.subsets.1.\w+: None -> "):
        go_on(text=lambda told: told.replace("[train]", f"{more}[train]"))

    caption = tmp_path / "things" / "04.txt"
    before = caption.read_text()
    caption.write_text("dog")
    with pytest.raises(ArgumentError, match=r"have changed since the run began, of .*04"):
        go_on()
    caption.write_text(before)
    picture = tmp_path / "things" / "04.png"
    kept = picture.read_bytes()
    noise(99, 40, 40).save(picture)
    with pytest.raises(DataError, match=r"04.png: is missing since the run began"):
        go_on()
    picture.write_bytes(kept)

    # Paths may move, and how a run is watched is no part of it.
    (tmp_path / "things").rename(tmp_path / "moved")
    assert logged(tmp_path / "out")[-1]["step"] == 2
    go_on("train.keep=5", "train.accumulation=2", text=lambda told: told.replace("things", "moved"))
    assert newest(tmp_path / "out").step == 3
