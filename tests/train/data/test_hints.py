"""Hints beside pictures, of every source: each is cropped and mirrored with its own picture."""

import io
import json
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from t2i.controls.hints import HINT_KINDS, HintKind, make_hint
from t2i.errors import ArgumentError, DataError
from tests.tiny import tiny_vae
from tests.train.data.making import NAMES, colour_of, noise, plain
from tests.train.data.test_tars import png, tar_of
from train.batches.batch_order import SlotAssignment
from train.batches.micro_batch import collate_examples
from train.batches.micro_batch_splitting import split_micro_batch
from train.cache.latent_cache import CachedPictureDataset
from train.cache.shards import ShardFolder, ShardWriter
from train.data.dataset_manifest import load_pictures_creating_manifest_if_new
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.sheets.contact_sheet import draw_contact_sheet
from train.setup.cache_encoding import batch_variants_by_shape, encode_and_cache_latents

HINT_OF = dict(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
"""The hint of each colour is another colour."""
Subset = dict[str, Any]


def of_folder(folder: Path) -> Subset:
    for colour in NAMES:
        for place, shown in (("mine", colour), ("hints", HINT_OF[colour])):
            (folder / place).mkdir(parents=True, exist_ok=True)
            plain(shown).save(folder / place / f"{colour}.png")
    plain("red").save(folder / "hints/unused.png")
    return {"folder": folder / "mine", "hints": folder / "hints"}


def of_column(folder: Path) -> Subset:
    rows = []
    (folder / "mine/edges").mkdir(parents=True)
    for colour in NAMES:
        plain(colour).save(folder / f"mine/{colour}.png")
        plain(HINT_OF[colour], 80, 80).save(folder / f"mine/edges/{colour}.png")
        names = {"file_name": f"{colour}.png", "conditioning_image": f"edges/{colour}.png"}
        rows.append(json.dumps({**names, "text": colour}))
    (folder / "mine/metadata.jsonl").write_text("\n".join(rows))
    return {"folder": folder / "mine", "hint_column": "conditioning_image"}


def of_tars(folder: Path) -> Subset:
    files = {}
    for colour in NAMES:
        files |= {f"{colour}.png": png(colour), f"{colour}.Hint.png": png(HINT_OF[colour])}
    return {"tars": str(tar_of(folder / "some.tar", files)), "hint_column": "hint"}


def of_pairs(folder: Path) -> Subset:
    rows = []
    for colour in NAMES:
        plain(colour).save(folder / f"{colour}.png")
        row = {"caption": colour, "win": f"{colour}.png", "lose": f"{HINT_OF[colour]}.png"}
        rows.append(json.dumps(row | {"hint": f"{HINT_OF[colour]}.png"}))
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return {"pairs": folder / "pairs.jsonl", "hint_column": "hint"}


def of_table(folder: Path) -> Subset:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [plain(colour) for colour in NAMES],
        "edges": [plain(HINT_OF[colour]) for colour in NAMES],
    }
    table = datasets.Dataset.from_dict(columns)
    for column in columns:
        table = table.cast_column(column, datasets.Image())
    table.save_to_disk(folder / "saved")
    return {"dataset": str(folder / "saved"), "hint_column": "edges"}


def of_kohya(folder: Path) -> Subset:
    of_folder(folder)
    (folder / "kohya.toml").write_text(
        "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'mine'\nconditioning_data_dir = 'hints'\n"
    )
    return {"kohya": folder / "kohya.toml", "hint_column": "conditioning_data_dir"}


def pictures_of(*subsets: Subset, **settings: Any) -> Pictures:
    tree = {"size": 32, "subsets": list(subsets), **settings}
    return Pictures(PictureDatasetConfig.model_validate(tree))


SOURCES = [of_folder, of_column, of_tars, of_pairs, of_table, of_kohya]


@pytest.mark.parametrize("write", SOURCES)
def test_every_source_gives_each_picture_its_own_hint(
    tmp_path: Path, write: Callable[[Path], Subset]
) -> None:
    pictures = pickle.loads(pickle.dumps(pictures_of(write(tmp_path))))
    assert len(pictures) == len(NAMES)
    for index in range(len(NAMES)):
        sample = pictures.read_example(index, 0)
        assert sample.hint is not None
        assert sample.hint.shape == (32, 32, 3)
        assert sample.loss_mask is None
        assert colour_of(sample.hint) == HINT_OF[colour_of(sample.pixels)]
    summary = pictures.build_summary()
    assert summary.hints == len(NAMES)
    assert f"hints: {len(NAMES)}" in summary.format_startup_lines(1)


def test_hints_that_no_picture_needs_are_named(tmp_path: Path) -> None:
    notes = pictures_of(of_folder(tmp_path)).found.notes
    assert f"1 hint without a picture: {tmp_path}/hints/unused.png" in notes


@pytest.mark.parametrize("kind", get_args(HintKind))
def test_a_hint_is_made_of_the_crop_that_is_trained_on(tmp_path: Path, kind: HintKind) -> None:
    for number in range(3):
        noise(number, 60, 40).resize((90, 60)).save(tmp_path / f"{number}.png")
    pictures = Pictures(
        PictureDatasetConfig(folder=tmp_path, size=32, buckets=False, flip=True, hint=kind)
    )
    for visit in range(4):
        sample = pictures.read_example(1, visit)
        made = make_hint(kind, Image.fromarray(sample.pixels), resolution=None).convert("RGB")
        assert sample.hint is not None
        assert sample.hint.any()
        assert np.array_equal(sample.hint, np.asarray(made))


def test_every_kind_of_hint_can_be_asked_for() -> None:
    assert set(get_args(HintKind)) == set(HINT_KINDS)


def test_a_hint_is_cropped_and_mirrored_with_its_picture(tmp_path: Path) -> None:
    # The hint is the picture at twice the size, so that both stay alike under every transform.
    for place, scale in (("mine", 1), ("hints", 2)):
        (tmp_path / place).mkdir()
        gradient = np.linspace(0, 255, 90 * scale).astype(np.uint8)
        pixels = np.broadcast_to(gradient[None, :, None], (60 * scale, 90 * scale, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / place / "one.png")
    subset = {"folder": tmp_path / "mine", "hints": tmp_path / "hints"}
    pictures = pictures_of(subset, crop="random", flip=True, buckets=False)
    views = set()
    for visit in range(20):
        sample = pictures.read_example(0, visit)
        assert sample.hint is not None
        views.add(tuple(sample.pixels[0, :, 0].tolist()))
        difference = sample.hint.astype(int) - sample.pixels
        assert abs(difference).max() <= 2
    assert len(views) > 3


def test_what_is_transparent_in_a_hint_is_black(tmp_path: Path) -> None:
    subset = of_folder(tmp_path)
    Image.new("RGBA", (40, 40), (255, 255, 255, 0)).save(tmp_path / "hints/red.png")
    pictures = pictures_of(subset)
    red = next(i for i in range(len(pictures)) if pictures.picture_name(i).endswith("red.png"))
    hint = pictures.read_example(red, 0).hint
    assert hint is not None
    assert not hint.any()


def test_all_pictures_without_a_hint_are_named_at_once(tmp_path: Path) -> None:
    first, second = of_folder(tmp_path / "a"), of_column(tmp_path / "b")
    for colour in ("red", "cyan"):
        (tmp_path / f"a/hints/{colour}.png").unlink()
    table = tmp_path / "b/mine/metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[3]["conditioning_image"] = None
    table.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / f"b/mine/edges/{NAMES[3]}.png").unlink()
    with pytest.raises(DataError, match=r"Without a hint: 3 pictures:") as error:
        pictures_of(first, second)
    for missing in ("a/mine/red.png", "a/mine/cyan.png", f"b/mine/{NAMES[3]}.png"):
        assert str(tmp_path / missing) in str(error.value)


@pytest.mark.parametrize("write", [of_tars, of_pairs, of_table])
def test_another_column_than_the_hints_is_refused(
    tmp_path: Path, write: Callable[[Path], Subset]
) -> None:
    with pytest.raises((DataError, ArgumentError), match=r"Without a hint: 8|no column"):
        pictures_of({**write(tmp_path), "hint_column": "other"})


def test_a_metadata_table_without_the_column_names_the_nearest(tmp_path: Path) -> None:
    subset = of_column(tmp_path) | {"hint_column": "conditioning_picture"}
    with pytest.raises(DataError, match=r"no column 'conditioning_picture'.*'conditioning_image'"):
        pictures_of(subset)


def test_a_hint_that_cannot_be_used_makes_its_picture_a_broken_one(tmp_path: Path) -> None:
    subset = of_folder(tmp_path)
    plain("red", 80, 20).save(tmp_path / "hints/red.png")
    (tmp_path / "hints/blue.png").write_bytes(b"none")
    with pytest.raises(DataError, match="2 of 8 pictures cannot be used") as error:
        pictures_of(subset)
    assert "its hint: is 80x20, of other proportions" in str(error.value)
    assert re.search(r"blue\.png: its hint: is no picture we know", str(error.value))


def test_a_path_of_a_hint_stays_in_its_folder(tmp_path: Path) -> None:
    subset = of_column(tmp_path)
    table = tmp_path / "mine/metadata.jsonl"
    table.write_text(table.read_text().replace("edges/", "../"))
    with pytest.raises(DataError, match=r"line 1: '../red.png' leads out of the folder"):
        pictures_of(subset)
    table.write_text('{"file_name": "red.png", "conditioning_image": 7}')
    with pytest.raises(DataError, match="'conditioning_image' is 7; expected the path of a hint"):
        pictures_of(subset)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folder": "a", "hints": "b", "hint": "canny"}, "Got hints and hint: a picture has one"),
        ({"tars": "a.tar", "hints": "b"}, "hints go with folder, not with tars"),
        ({"kohya": "a.toml", "hint_column": "x"}, "kohya, whose key for hints is 'conditioning"),
        ({"folder": "a", "hint": "cany"}, "Input should be 'canny', 'soft-edge', 'lines' or"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: Subset, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PictureDatasetConfig.model_validate({"subsets": [keys]})


def test_a_table_of_hints_alone_leaves_the_captions_to_text_files(tmp_path: Path) -> None:
    subset = of_column(tmp_path)
    table = tmp_path / "mine/metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for row in rows:
        (tmp_path / f"mine/{row.pop('text')}.txt").write_text("a caption")
    table.write_text("\n".join(map(json.dumps, rows)))
    assert pictures_of(subset).list_captions_of_all_pictures() == {"a caption"}


def test_cached_hints_are_those_of_the_pictures(tmp_path: Path) -> None:
    pictures = pictures_of(of_folder(tmp_path), crop="random", flip=True)
    made = pictures_of({"folder": tmp_path / "mine"}, hint="soft-edge")
    shards = ShardFolder(tmp_path / "cache")
    for one in (pictures, made):
        batches = batch_variants_by_shape(
            one, [*map(partial(one.variant_at_visit, visit=1), range(8))], 3
        )
        writer = ShardWriter(shards.folder, 10**6)
        assert not encode_and_cache_latents(one, batches, 3, tiny_vae(), writer, lambda _: None)
        shards.index_files(shards.list_file_names())
    for one in (pictures, made):
        cached = CachedPictureDataset(one, shards)
        for index in range(8):
            read, expected = cached.read_example(index, 1).hint, one.read_example(index, 1).hint
            assert read is not None
            assert expected is not None
            assert np.array_equal(read, expected)
            assert cached.read_example(index, 1).moments is not None


def test_a_kohya_file_without_hints_is_refused(tmp_path: Path) -> None:
    subset = of_kohya(tmp_path)
    (tmp_path / "kohya.toml").write_text("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'mine'\n")
    with pytest.raises(ArgumentError, match="no conditioning_data_dir, so there are no hints"):
        pictures_of(subset)


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    settings: Subset = {"hint": "canny", "hint_settings": {"lo": 3}}
    with pytest.raises(ArgumentError, match=r"Got lo for the hint canny.*low"):
        pictures_of({"folder": tmp_path / "nowhere"}, **settings)


def test_a_subset_has_its_own_kind_and_settings(tmp_path: Path) -> None:
    mine = of_folder(tmp_path)["folder"]
    listed = {"folder": mine, "hints": tmp_path / "hints"}
    own = {"folder": mine, "hint": "colours", "hint_settings": {"blocks": 2}}
    pictures = pictures_of(
        {"folder": mine}, own, listed, {"folder": mine, "hint": "lines"},
        hint="canny", hint_settings={"low": 1},
    )  # fmt: skip
    hints = [rules.hint for rules in pictures.rules]
    assert [hint and hint.cache_key for hint in hints] == [
        "canny low=1",
        "colours blocks=2",
        None,
        "lines",
    ]
    keys = {pictures.pixels_cache_key(pictures.variant_at_visit(8 * n, 0)) for n in range(4)}
    assert len(keys) == 4


def test_a_run_notices_hints_that_changed(tmp_path: Path) -> None:
    config = PictureDatasetConfig.model_validate({"size": 32, "subsets": [of_folder(tmp_path)]})
    first = load_pictures_creating_manifest_if_new(config, tmp_path / "record.json")
    assert load_pictures_creating_manifest_if_new(
        config, tmp_path / "record.json"
    ).compute_fingerprint() == (first.compute_fingerprint())
    plain("gray").save(tmp_path / "hints/red.png")
    assert Pictures(config).compute_fingerprint() != first.compute_fingerprint()
    with pytest.raises(ArgumentError, match=r"hints, pairs or repeats have changed.*red\.png"):
        load_pictures_creating_manifest_if_new(config, tmp_path / "record.json")


def test_a_batch_has_hints_from_0_to_1_and_can_be_split(tmp_path: Path) -> None:
    pictures = pictures_of(of_folder(tmp_path))
    rows = [(SlotAssignment(0, slot, slot, 0), pictures.read_example(slot, 0)) for slot in range(4)]
    batch = collate_examples(rows)
    assert batch.hints_BCHW is not None
    assert batch.hints_BCHW.shape == (4, 3, 32, 32)
    hint = rows[2][1].hint
    assert hint is not None
    back = (batch.hints_BCHW[2] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(back, hint)
    halves = [piece.hints_BCHW for piece in split_micro_batch(batch, 2)]
    assert [None if half is None else len(half) for half in halves] == [2, 2]


def test_a_contact_sheet_shows_each_hint_beside_its_picture(tmp_path: Path) -> None:
    pictures = pictures_of(of_folder(tmp_path))
    plain_pictures = pictures_of({"folder": tmp_path / "mine"})
    sheet, without = (draw_contact_sheet(one, range(6)) for one in (pictures, plain_pictures))
    assert sheet.height > without.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    shown = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    hint = pictures.read_example(0, 0).hint
    assert hint is not None
    assert tuple(hint[16, 16].tolist()) in shown
