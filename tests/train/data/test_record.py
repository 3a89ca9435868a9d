"""A run that goes on has the pictures it began with."""

import shutil
from pathlib import Path

import pytest

from t2i.errors import ArgumentError, DataError
from tests.train.data.making import NAMES, folder_of, noise, plain
from train.data.dataset_manifest import load_pictures_creating_manifest_if_new
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig


def config_of(folder: Path | None, **keys: object) -> PictureDatasetConfig:
    given = {"folder": folder, "size": 32, "bucket_step": 8, "bad_share": 0.3, **keys}
    return PictureDatasetConfig.model_validate(given)


def shown(pictures: Pictures, indices: range = range(8)) -> list[tuple[bytes, str]]:
    samples = [pictures.read_example(index, index + 5) for index in indices]
    return [(sample.pixels.tobytes(), sample.caption) for sample in samples]


def test_a_run_goes_on_with_the_same_pictures_wherever_they_lie(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    config = config_of(folder, crop="random", flip=True)
    first = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    before = shown(first)
    shutil.move(folder, tmp_path / "b")
    (tmp_path / "b" / "00-red.png").rename(tmp_path / "b" / "zz.png")
    (tmp_path / "b" / "00-red.txt").rename(tmp_path / "b" / "zz.txt")
    moved = config.model_copy(update={"folder": tmp_path / "b"})
    again = load_pictures_creating_manifest_if_new(moved, tmp_path / "pictures.json")
    assert shown(again) == before
    assert again.compute_fingerprint() == first.compute_fingerprint()
    assert again.picture_name(0) == f"{tmp_path}/b/zz.png"
    assert Pictures(moved).compute_fingerprint() != first.compute_fingerprint()


def test_a_lost_picture_keeps_its_place_and_the_same_one_stands_in(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    config = config_of(folder, buckets=False)
    first = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    (folder / "02-blue.png").unlink()
    (folder / "05-magenta.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="takes its place"):
        before = shown(first)
    again = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    assert (len(again), again.group_indices_by_shape()) == (8, first.group_indices_by_shape())
    with pytest.warns(UserWarning, match="takes its place") as told:
        assert shown(again) == before
    assert len(told) == 2
    assert [Path(one.name).name for one in again.found.broken] == [
        "05-magenta.png",
        "02-blue.png",
    ]
    assert again.build_summary().trained == 8
    (folder / "00-red.png").unlink()
    with pytest.raises(DataError, match="3 of 8 pictures cannot be used, more than bad_share"):
        load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")


def test_new_pictures_wait_for_another_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    config = config_of(folder, held_out=2)
    first = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    for number in range(20):
        noise(number, 40, 40).save(folder / f"00-{number}.png")
    again = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    assert again.compute_fingerprint() == first.compute_fingerprint()
    assert (
        again.build_held_out_set().compute_fingerprint()
        == first.build_held_out_set().compute_fingerprint()
    )
    assert again.found.notes[-1] == "new since the run began, so not used: 20 pictures"


def test_other_captions_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")
    (folder / "03-yellow.txt").write_text("another caption")
    with pytest.raises(ArgumentError, match=r"changed since the run began, of .*03-yellow\.png: "):
        load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")


def test_copies_with_other_captions_keep_theirs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    for name, caption in (("b", "one"), ("a", "two")):
        plain("red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    first = load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")
    (folder / "a.png").rename(folder / "c.png")
    (folder / "a.txt").rename(folder / "c.txt")
    again = load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")
    captions = [first.caption_at_visit(index, 0) for index in range(10)]
    assert [again.caption_at_visit(index, 0) for index in range(10)] == captions
    assert {"one", "two"} < {*captions}


def test_what_was_decoded_once_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")
    decoded: list[str] = []
    monkeypatch.setattr(
        "train.data.picture_checks.decode_to_rgb_or_rgba",
        lambda data, name, limit: decoded.append(name),
    )
    noise(1, 40, 40).save(folder / "new.png")
    load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")
    assert decoded == [f"{folder}/new.png"]


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    (tmp_path / "pictures.json").write_text("{")
    with pytest.raises(DataError, match=r"Cannot read the record .*pictures\.json: .*Begin anew"):
        load_pictures_creating_manifest_if_new(config_of(folder), tmp_path / "pictures.json")


def test_a_changed_mask_is_refused_and_never_used(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", *NAMES)
    masks = tmp_path / "masks"
    masks.mkdir()
    plain("black").save(masks / "00-red.png")
    config = config_of(None, subsets=[{"folder": folder, "masks": masks}], buckets=False)
    pictures = load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    assert pictures.read_example(0, 0).loss_mask is not None
    plain("gray").save(masks / "00-red.png")
    with pytest.raises(
        ArgumentError, match=r"Captions, masks, hints, pairs or repeats .* of .*00-red\.png"
    ):
        load_pictures_creating_manifest_if_new(config, tmp_path / "pictures.json")
    with pytest.warns(UserWarning, match=r"00-red\.png: its mask: is another picture than when"):
        sample = pictures.read_example(0, 0)
    assert sample.name.endswith("01-green.png")
