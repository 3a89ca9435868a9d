"""Files of the cache: what is in one is what was written, or it is not taken."""

import errno
import os
import pickle
import time

import numpy as np
import pytest

from t2i.errors import DataError, OutputError
from train.cache import shards as module
from train.cache.shards import ShardFolder, ShardWriter


def written(folder, count=10, most_bytes=200):
    """Entries of 64 bytes and, every other one, a mask."""
    writer = ShardWriter(folder, most_bytes)
    for number in range(count):
        mask = {"mask": np.full((2, 2), number, dtype=np.uint8)} if number % 2 else {}
        writer.add(f'key "{number}" \u00e9', {"moments": np.full(16, number, np.float32), **mask})
    writer.flush()
    shards = ShardFolder(folder)
    shards.index_files()
    return shards


def test_entries_come_back_as_they_were_written(tmp_path):
    shards = written(tmp_path)
    assert len(shards.list_file_names()) > 2
    for reader in (shards, pickle.loads(pickle.dumps(shards))):
        for number in (9, 0, 4):
            found = reader.read(f'key "{number}" \u00e9')
            assert found["moments"].tolist() == [number] * 16
            assert ("mask" in found) == bool(number % 2)
    assert "key" not in shards


def test_more_files_are_read_than_are_held_open(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 2)
    shards = written(tmp_path, most_bytes=1)
    for _ in range(2):
        for number in range(10):
            assert shards.read(f'key "{number}" \u00e9')["moments"][0] == number
    assert len(shards._open) == 2


@pytest.mark.parametrize("harm", ["changed", "cut short", "renamed", "emptied"])
def test_a_damaged_file_is_found_and_only_what_it_held_is_gone(tmp_path, harm):
    shards = written(tmp_path)
    assert shards.list_damaged_files(shards.list_file_names()) == []
    name = shards.list_file_names()[0]
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if harm == "renamed":
        other = tmp_path / f"{'0' * 32}.safetensors"
        path.rename(other)
        name = other.name
    else:
        path.write_bytes({"changed": data, "cut short": data[:-20], "emptied": b""}[harm])
    assert shards.list_damaged_files(shards.list_file_names()) == [name]
    before = {key for key in (f'key "{n}" \u00e9' for n in range(10)) if key in shards}
    shards.delete_files_and_stale_parts([name])
    shards.index_files()
    after = {key for key in before if key in shards}
    assert len(before) == 10
    assert 0 < len(after) < 10


def test_what_a_kill_left_unfinished_is_swept_up_once_it_is_old(tmp_path):
    shards = written(tmp_path)
    new, old = tmp_path / ".a.1.part", tmp_path / ".b.1.part"
    for path in (new, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    shards.delete_files_and_stale_parts([])
    assert new.exists()
    assert not old.exists()
    assert len(shards.list_file_names()) == len(written(tmp_path).list_file_names())


def test_what_another_run_took_away_meanwhile_is_no_fault(tmp_path, monkeypatch):
    shards = written(tmp_path)
    gone = tmp_path / ".gone.1.part"
    monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern: iter([gone]))
    shards.delete_files_and_stale_parts([f"{'0' * 32}.safetensors"])


def test_a_folder_that_lets_nothing_be_taken_away_is_said(tmp_path, monkeypatch):
    shards = written(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "unlink", refuse)
    with pytest.raises(OutputError, match="Permission denied: choose a folder you may write to"):
        shards.delete_files_and_stale_parts(shards.list_file_names()[:1])


def test_a_file_that_goes_away_during_a_run_is_named(tmp_path):
    shards = written(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(DataError, match=r"safetensors of the cache cannot be read.*start the run"):
        shards.read('key "1" \u00e9')


def test_a_disk_that_refuses_leaves_what_was_there(tmp_path):
    files = written(tmp_path).list_file_names()
    blocked = tmp_path / files[0] / "inside a file"
    with pytest.raises(OutputError, match="is a file, not a folder"):
        written(blocked)
    assert ShardFolder(tmp_path).list_file_names() == files
