"""Files appear whole and replace nothing unasked, whoever else writes at the same moment."""

import errno
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from t2i.atomic_files import (
    NameTakenError,
    check_name_lengths,
    write_atomically,
    write_files_under_first_free_names,
    write_new_file,
)
from t2i.cli.output_files.file_names import OutputFileNames
from t2i.cli.output_files.multi_file_output_names import MultiFileOutputNames
from t2i.errors import OutputError


def race(tries: int, racers: Sequence[Callable[[int], object]]) -> list[list[object]]:
    """What each came to, try after try; all begin each try at once."""
    barrier = Barrier(len(racers))

    def runs(racer: Callable[[int], object]) -> list[object]:
        found: list[object] = []
        for number in range(tries):
            barrier.wait(60)
            try:
                found.append(racer(number))
            except OutputError as error:
                found.append(error)
        return found

    with ThreadPoolExecutor(len(racers)) as pool:
        return [list(one) for one in zip(*pool.map(runs, racers), strict=True)]


@pytest.fixture(params=["links", "no links"])
def _links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system without hard links answers, such as FAT."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("_links")
def test_of_two_who_write_one_name_at_once_one_is_refused(tmp_path: Path) -> None:
    def writer(text: str) -> Callable[[int], object]:
        return lambda number: write_new_file(
            tmp_path / f"{number}.txt", lambda path: path.write_text(text)
        )

    for number, ends in enumerate(race(100, [writer("one"), writer("other")])):
        assert sorted(isinstance(end, NameTakenError) for end in ends) == [False, True]
        won = ("one", "other")[ends.index(None)]
        assert (tmp_path / f"{number}.txt").read_text() == won
    assert len(os.listdir(tmp_path)) == 100


def _write(folder: str, mark: str, gate: "multiprocessing.synchronize.Barrier") -> None:
    for number in range(50):
        gate.wait(60)
        try:
            write_new_file(Path(folder) / f"{number}", lambda path: path.write_text(mark))
        except NameTakenError:
            continue
        Path(folder, f"{number}-{mark}").touch()


def test_of_two_processes_one_is_refused_too(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(2)
    racers = [context.Process(target=_write, args=(str(tmp_path), m, gate)) for m in "ab"]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    for number in range(50):
        (winner,) = tmp_path.glob(f"{number}-*")
        assert (tmp_path / f"{number}").read_text() == winner.name[-1]


@pytest.mark.usefixtures("_links")
def test_pictures_in_a_folder_get_names_of_their_own(tmp_path: Path) -> None:
    def saver(mark: str) -> Callable[[int], object]:
        names = OutputFileNames(tmp_path, "a cat", 1)
        return lambda number: names.save_image(0, number, lambda path: path.write_text(mark))

    for number, ends in enumerate(race(30, [saver("a"), saver("b"), saver("c")])):
        expected = {tmp_path / f"a-cat-{number}{tail}.png" for tail in ("", "-2", "-3")}
        assert set(ends) == expected
        for path, mark in zip(ends, "abc", strict=True):
            assert isinstance(path, Path)
            assert path.read_text() == mark


@pytest.mark.usefixtures("_links")
def test_files_that_belong_together_stay_together(tmp_path: Path) -> None:
    def saver(mark: str) -> Callable[[int], object]:
        names = MultiFileOutputNames(tmp_path, "a cat", "edit", ["-source.png", "-target.png"])

        def write(paths: Sequence[Path]) -> None:
            for path in paths:
                path.write_text(mark)

        return lambda number: names.save_files_all_or_none(number, write)

    for ends in race(30, [saver("a"), saver("b")]):
        for paths, mark in zip(ends, "ab", strict=True):
            assert isinstance(paths, list)
            assert [path.read_text() for path in paths] == [mark] * 3
    assert not [*tmp_path.glob(".*")]


def test_a_family_of_which_one_name_is_taken_leaves_the_others_free(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    family = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    with pytest.raises(NameTakenError, match=r"b exists and is not replaced: remove it, or choose"):
        write_files_under_first_free_names(
            [family], lambda paths: [path.write_text("new") for path in paths]
        )
    assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_replaced_either(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    with pytest.raises(NameTakenError):
        write_new_file(tmp_path / "a.png", lambda path: path.write_text("new"))
    with pytest.raises(NameTakenError):
        OutputFileNames(tmp_path / "a.png", "a cat", 1)


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".png", "\u00e9" * 125 + ".png"):
        for write in (write_new_file, write_atomically):
            (tmp_path / name).unlink(missing_ok=True)
            write(tmp_path / name, lambda path: path.write_text("a cat"))
            assert (tmp_path / name).read_text() == "a cat"


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 256), tmp_path / ("x" * 300) / "a.png"):
        with pytest.raises(OutputError, match=r"Cannot write .*A name has at most 255 bytes"):
            check_name_lengths([path])
    with pytest.raises(OutputError, match="A name has at most 255 bytes"):
        OutputFileNames(tmp_path / ("x" * 300 + ".png"), "a cat", 1)
    with pytest.raises(OutputError, match="A name has at most 255 bytes"):  # -source.png
        MultiFileOutputNames(tmp_path / ("x" * 245 + ".png"), "a cat", "edit", ["-source.png"])
