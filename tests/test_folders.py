"""Folders appear whole, what stood in their place is not lost, and what a kill left is mended."""

import os
import threading
from pathlib import Path

import pytest

from t2i import atomic_folders as folders
from t2i.atomic_files import NameTakenError
from t2i.atomic_folders import (
    atomic_folder,
    atomic_new_path,
    restore_all_folders_from_backup,
    restore_folder_from_backup,
)
from t2i.errors import OutputError
from tests.test_files import race


def filled(folder: Path, text: str) -> None:
    with atomic_folder(folder) as new:
        (new / "said").write_text(text)


@pytest.fixture(params=["exchange", "no exchange"])
def _exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no exchange":
        monkeypatch.setattr(folders, "try_swap_folders_atomically", lambda *_: False)


@pytest.mark.usefixtures("_exchange")
def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    filled(tmp_path / "model", "old")
    (tmp_path / "model" / "more").write_text("of the old one")
    filled(tmp_path / "model", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["said"]
    assert (tmp_path / "model" / "said").read_text() == "new"


def test_there_is_no_moment_without_the_folder(tmp_path: Path) -> None:
    filled(tmp_path / "model", "0")
    done = threading.Event()
    missed = []

    def watch() -> None:
        while not done.is_set():
            missed.append(not (tmp_path / "model" / "said").exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(50):
        filled(tmp_path / "model", str(number))
    done.set()
    watcher.join()
    assert len(missed) > 50
    assert not any(missed)


@pytest.mark.parametrize("after", ["the first rename", "both renames"])
def test_a_folder_that_a_kill_left_aside_is_put_back_by_whoever_needs_it(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    monkeypatch.setattr(folders, "try_swap_folders_atomically", lambda *_: False)
    filled(tmp_path / "model", "old")
    rename, calls = Path.rename, []

    def or_die(self: Path, target: Path) -> Path:
        if after == "the first rename" and calls:
            raise Killed
        calls.append(self)
        done = rename(self, target)
        if len(calls) == 2:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", or_die)
        with pytest.raises(Killed):
            filled(tmp_path / "model", "new")
    restore_all_folders_from_backup(tmp_path)
    whole = "old" if after == "the first rename" else "new"
    assert (tmp_path / "model" / "said").read_text() == whole
    filled(tmp_path / "model", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "said").read_text() == "newer"


def test_readers_put_it_back_too(tmp_path: Path) -> None:
    from t2i.denoiser.loading.model_location import locate_model
    from train.checkpoint import recover_and_list_checkpoint_folders

    (tmp_path / ".model.old").mkdir()
    assert locate_model(tmp_path / "model") == tmp_path / "model"
    (tmp_path / "runs" / ".step-00000004.old").mkdir(parents=True)
    assert [path.name for path in recover_and_list_checkpoint_folders(tmp_path / "runs")] == [
        "step-00000004"
    ]


def test_a_folder_that_is_there_is_never_put_back_over(tmp_path: Path) -> None:
    filled(tmp_path / "model", "new")
    (tmp_path / ".model.old").mkdir()
    restore_folder_from_backup(tmp_path / "model")
    assert (tmp_path / "model" / "said").read_text() == "new"


@pytest.mark.usefixtures("_exchange")
def test_a_folder_that_cannot_be_named_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    filled(tmp_path / "model", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("no")
        return rename(self, target)

    def refuse_too(*_: object) -> bool:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        if request.node.callspec.params["_exchange"] == "exchange":
            patch.setattr(folders, "try_swap_folders_atomically", refuse_too)
        with pytest.raises(OutputError, match="Cannot write"):
            filled(tmp_path / "model", "new")
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_exception_within_leaves_the_old_one(tmp_path: Path) -> None:
    def half() -> None:
        with atomic_folder(tmp_path / "model") as new:
            (new / "said").write_text("half")
            raise KeyError("stop")

    filled(tmp_path / "model", "old")
    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_kill_left_half_written_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    (tmp_path / ".model.12345-0.part").mkdir()
    (tmp_path / ".model.12345-0.part" / "half").touch()
    with atomic_folder(tmp_path / "model") as slow:
        (slow / "said").write_text("slow")
        filled(tmp_path / "model", "quick")
        assert [path.name for path in tmp_path.glob(".*")] == [slow.name]
    assert (tmp_path / "model" / "said").read_text() == "slow"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_who_write_one_name_at_once_one_is_refused(tmp_path: Path, kind: str) -> None:
    def writer(text: str) -> object:
        def write(number: int) -> None:
            with atomic_new_path(tmp_path / f"{number}") as new:
                if kind == "folder":
                    new.mkdir()
                (new / "said" if kind == "folder" else new).write_text(text)

        return write

    for number, ends in enumerate(race(50, [writer("one"), writer("other")])):  # type: ignore[list-item]
        assert sorted(isinstance(end, NameTakenError) for end in ends) == [False, True]
        place = tmp_path / f"{number}"
        won = ("one", "other")[ends.index(None)]
        assert (place / "said" if kind == "folder" else place).read_text() == won
    assert len(os.listdir(tmp_path)) == 50


def test_a_folder_with_anything_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with (
        pytest.raises(NameTakenError, match="model exists and is not replaced"),
        atomic_new_path(tmp_path / "model") as new,
    ):
        new.mkdir()
    (tmp_path / "note").write_text("mine")
    with (
        pytest.raises(NameTakenError, match="note exists"),
        atomic_new_path(tmp_path / "note") as new,
    ):
        new.mkdir()
    assert sorted(os.listdir(tmp_path)) == ["model", "note"]
    assert os.listdir(tmp_path / "model") == ["mine"]
