"""Folders appear whole, and what stood in their place is not lost on the way."""

from pathlib import Path

import pytest

from t2i.errors import OutputError
from t2i.files import whole_folder


def filled(folder: Path, text: str) -> None:
    with whole_folder(folder) as new:
        (new / "said").write_text(text)


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    filled(tmp_path / "model", "old")
    (tmp_path / "model" / "more").write_text("of the old one")
    filled(tmp_path / "model", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["said"]
    assert (tmp_path / "model" / "said").read_text() == "new"


def test_a_folder_that_cannot_be_named_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "model", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".model.part":
            raise OSError("no")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OutputError, match="Cannot write"):
            filled(tmp_path / "model", "new")
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_exception_within_leaves_the_old_one(tmp_path: Path) -> None:
    def half() -> None:
        with whole_folder(tmp_path / "model") as new:
            (new / "said").write_text("half")
            raise KeyError("stop")

    filled(tmp_path / "model", "old")
    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
